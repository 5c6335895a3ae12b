// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

var sources = registry[*workloadapi.X509Source]{}

func openSource(request *Request) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), request.timeout())
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(request.Address)))
	if err != nil {
		return nil, err
	}
	sources.put(request.Name, source)
	return svid(request)
}

func svid(request *Request) (map[string]any, error) {
	source, err := sources.get(request.Name)
	if err != nil {
		return nil, err
	}
	held, err := source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	return describe(held), nil
}

// Updated waits until the source's X509-SVID is another than the one whose serial number is given.
func updated(request *Request) (map[string]any, error) {
	source, err := sources.get(request.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), request.timeout())
	defer cancel()
	for {
		change := source.Updated()
		answer, err := svid(request)
		if err != nil || answer["serial"] != request.Not {
			return answer, err
		}
		select {
		case <-change:
		case <-ctx.Done():
			return answer, ctx.Err()
		case <-time.After(50 * time.Millisecond): // the signal may have come between the two reads
		}
	}
}

func closeSource(request *Request) (map[string]any, error) {
	source, err := sources.take(request.Name)
	if err != nil {
		return nil, err
	}
	return nil, source.Close()
}

// Fetch answers all that the Workload API says to one call of FetchX509SVID and one of FetchX509Bundles.
func fetch(request *Request) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), request.timeout())
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(request.Address))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	found, err := client.FetchX509Context(ctx)
	if err != nil {
		return nil, err
	}
	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return nil, err
	}
	svids := []any{}
	for _, each := range found.SVIDs {
		svids = append(svids, describe(each))
	}
	return map[string]any{"svids": svids, "bundles": describeAll(found.Bundles), "bundles_alone": describeAll(bundles)}, nil
}

func describe(svid *x509svid.SVID) map[string]any {
	chain := &bytes.Buffer{}
	for _, each := range svid.Certificates {
		_ = pem.Encode(chain, &pem.Block{Type: "CERTIFICATE", Bytes: each.Raw})
	}
	return map[string]any{"id": svid.ID.String(), "hint": svid.Hint, "chain": chain.String(),
		"serial": svid.Certificates[0].SerialNumber.String()}
}

func describeAll(set *x509bundle.Set) map[string]string {
	bundles := map[string]string{}
	for _, each := range set.Bundles() {
		text, _ := each.Marshal()
		bundles[each.TrustDomain().Name()] = string(text)
	}
	return bundles
}
