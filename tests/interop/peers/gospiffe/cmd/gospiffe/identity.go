// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Identity is where an X509-SVID and bundles come from: a source that is open, a Workload API, or PEM as it stands.
type Identity struct {
	Source  string            `json:"source"`
	Socket  string            `json:"socket"`
	Chain   string            `json:"chain"`
	Key     string            `json:"key"`
	Bundles map[string]string `json:"bundles"`
}

// Policy is an authorizer: one of the fields is set.
type Policy struct {
	Any      bool     `json:"any"`
	ID       string   `json:"id"`
	OneOf    []string `json:"one_of"`
	MemberOf string   `json:"member_of"`
}

func (p Policy) authorizer() (tlsconfig.Authorizer, error) {
	switch {
	case p.Any:
		return tlsconfig.AuthorizeAny(), nil
	case p.MemberOf != "":
		domain, err := spiffeid.TrustDomainFromString(p.MemberOf)
		return tlsconfig.AuthorizeMemberOf(domain), err
	case p.ID != "":
		p.OneOf = []string{p.ID}
	}
	var ids []spiffeid.ID
	for _, each := range p.OneOf {
		id, err := spiffeid.FromString(each)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return tlsconfig.AuthorizeOneOf(ids...), nil
}

// Fixed is an X509-SVID that go-spiffe did not check: x509svid.Parse would refuse the faults that we present.
type fixed struct{ svid *x509svid.SVID }

func (f fixed) GetX509SVID() (*x509svid.SVID, error) { return f.svid, nil }

func (i *Identity) sources() (x509svid.Source, x509bundle.Source, func(), error) {
	switch {
	case i == nil:
		return nil, nil, nil, errors.New("the request has no identity")
	case i.Source != "":
		source, err := sources.get(i.Source)
		return source, source, func() {}, err
	case i.Socket != "":
		source, err := workloadapi.NewX509Source(context.Background(),
			workloadapi.WithClientOptions(workloadapi.WithAddr(i.Socket)))
		return source, source, func() { source.Close() }, err
	}
	bundles, err := i.bundleSet()
	if err != nil {
		return nil, nil, nil, err
	}
	if i.Chain == "" {
		return nil, bundles, func() {}, nil
	}
	svid, err := i.svid()
	return fixed{svid}, bundles, func() {}, err
}

func (i *Identity) svid() (*x509svid.SVID, error) {
	chain, err := certificates(i.Chain)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(i.Key))
	if block == nil {
		return nil, errors.New("the key is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	id, _ := x509svid.IDFromCert(chain[0])
	return &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: key.(crypto.Signer)}, nil
}

func (i *Identity) bundleSet() (*x509bundle.Set, error) {
	set := x509bundle.NewSet()
	for name, text := range i.Bundles {
		domain, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return nil, err
		}
		authorities, err := certificates(text)
		if err != nil {
			return nil, err
		}
		set.Add(x509bundle.FromX509Authorities(domain, authorities))
	}
	return set, nil
}

// Certificates parses PEM without looking at it, so that a fault reaches the peer.
func certificates(text string) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return found, nil
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			// Go refuses to read it, and we present it all the same.
			certificate = &x509.Certificate{Raw: block.Bytes}
		}
		found = append(found, certificate)
	}
}

func parseID(request *Request) (map[string]any, error) {
	id, err := spiffeid.FromString(request.Payload)
	return map[string]any{"id": id.String()}, err
}

func verify(request *Request) (map[string]any, error) {
	bundles, err := request.Identity.bundleSet()
	if err != nil {
		return nil, err
	}
	var raw [][]byte
	for rest := []byte(request.Identity.Chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		raw = append(raw, block.Bytes)
	}
	id, _, err := x509svid.ParseAndVerify(raw, bundles)
	return map[string]any{"id": id.String()}, err
}
