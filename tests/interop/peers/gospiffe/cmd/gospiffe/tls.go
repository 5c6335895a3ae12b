// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func (r *Request) parties() (x509svid.Source, x509bundle.Source, tlsconfig.Authorizer, func(), error) {
	authorizer, err := r.Authorize.authorizer()
	if err != nil {
		return nil, nil, nil, nil, err
	}
	own, bundles, done, err := r.Identity.sources()
	return own, bundles, authorizer, done, err
}

func clientConfig(request *Request) (*tls.Config, func(), error) {
	own, bundles, authorizer, done, err := request.parties()
	if err != nil {
		return nil, nil, err
	}
	return limit(request, clientSide(request, own, bundles, authorizer)), done, nil
}

func clientSide(request *Request, own x509svid.Source, bundles x509bundle.Source, authorizer tlsconfig.Authorizer) *tls.Config {
	if !request.Present {
		return tlsconfig.TLSClientConfig(bundles, authorizer)
	}
	config := tlsconfig.MTLSClientConfig(own, bundles, authorizer)
	if fixed, unchecked := own.(fixed); unchecked {
		// Go does not present a chain that the server's list of authorities does not lead to, if asked nicely;
		// a certificate from the callback goes out as it is.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return fixed.certificate(), nil
		}
	}
	return config
}

func (f fixed) certificate() *tls.Certificate {
	certificate := &tls.Certificate{PrivateKey: f.svid.PrivateKey}
	for _, each := range f.svid.Certificates {
		certificate.Certificate = append(certificate.Certificate, each.Raw)
	}
	return certificate
}

func serverConfig(request *Request) (*tls.Config, func(), error) {
	own, bundles, authorizer, done, err := request.parties()
	if err != nil {
		return nil, nil, err
	}
	config := tlsconfig.MTLSServerConfig(own, bundles, authorizer)
	if fixed, unchecked := own.(fixed); unchecked {
		config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return fixed.certificate(), nil }
	}
	return limit(request, config), done, nil
}

func limit(request *Request, config *tls.Config) *tls.Config {
	config.NextProtos = request.ALPN
	if request.MaxTLS == "1.2" {
		config.MaxVersion = tls.VersionTLS12
	}
	return config
}

func peerOf(state tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 {
		return ""
	}
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		return err.Error()
	}
	return id.String()
}

// Dial makes one connection; it counts as made when the server has answered, for with TLS 1.3 a server refuses a
// client after the client's handshake is over.
func dial(request *Request) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), request.timeout())
	defer cancel()
	if request.Transport == "grpc" {
		return dialGRPC(ctx, request)
	}
	config, done, err := clientConfig(request)
	if err != nil {
		return nil, err
	}
	defer done()
	if request.Transport == "https" {
		return dialHTTPS(ctx, request, config)
	}
	return dialTLS(ctx, request, config)
}

func dialTLS(ctx context.Context, request *Request, config *tls.Config) (map[string]any, error) {
	connection, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", request.Address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	state := connection.(*tls.Conn).ConnectionState()
	result := map[string]any{"peer": peerOf(state), "tls": tls.VersionName(state.Version), "alpn": state.NegotiatedProtocol}
	_ = connection.SetDeadline(time.Now().Add(request.timeout()))
	if _, err := io.WriteString(connection, request.Payload+"\n"); err != nil {
		return result, err
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	result["answer"] = strings.TrimSuffix(line, "\n")
	return result, err
}

func dialHTTPS(ctx context.Context, request *Request, config *tls.Config) (map[string]any, error) {
	config.NextProtos = nil // net/http chooses
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+request.Address+"/", strings.NewReader(request.Payload))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(post)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return map[string]any{"peer": peerOf(*response.TLS), "answer": string(body), "status": response.StatusCode,
		"protocol": response.Proto, "tls": tls.VersionName(response.TLS.Version)}, err
}

// Server is a listener and what came of the handshakes on it.
type server struct {
	outcomes chan map[string]any
	close    func()
}

var servers = registry[*server]{}

func serve(request *Request) (map[string]any, error) {
	listener, err := net.Listen("tcp", request.Address)
	if err != nil {
		return nil, err
	}
	made := &server{outcomes: make(chan map[string]any, 1<<16)}
	if made.close, err = made.start(listener, request); err != nil {
		listener.Close()
		return nil, err
	}
	servers.put(request.Name, made)
	return map[string]any{"address": listener.Addr().String()}, nil
}

func (s *server) start(listener net.Listener, request *Request) (func(), error) {
	if request.Transport == "grpc" {
		return serveGRPC(listener, request)
	}
	config, done, err := serverConfig(request)
	if err != nil {
		return nil, err
	}
	if request.Transport == "https" {
		stop := serveHTTPS(listener, config)
		return func() { stop(); done() }, nil
	}
	go s.accept(listener, config)
	return func() { listener.Close(); done() }, nil
}

func (s *server) accept(listener net.Listener, config *tls.Config) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go s.echo(tls.Server(connection, config))
	}
}

// Echo answers each line with the client's SPIFFE ID and the line.
func (s *server) echo(connection *tls.Conn) {
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(60 * time.Second))
	if err := connection.Handshake(); err != nil {
		s.note(map[string]any{"error": err.Error()})
		return
	}
	state := connection.ConnectionState()
	s.note(map[string]any{"peer": peerOf(state), "tls": tls.VersionName(state.Version), "sni": state.ServerName})
	for lines := bufio.NewScanner(connection); lines.Scan(); {
		fmt.Fprintf(connection, "%s %s\n", peerOf(state), lines.Text())
	}
}

func (s *server) note(outcome map[string]any) {
	select {
	case s.outcomes <- outcome:
	default: // nobody reads: a benchmark
	}
}

func serveHTTPS(listener net.Listener, config *tls.Config) func() {
	config.NextProtos = []string{"h2", "http/1.1"}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", peerOf(*r.TLS), body)
	})
	web := &http.Server{Handler: handler, TLSConfig: config, ReadHeaderTimeout: time.Minute}
	go func() { _ = web.ServeTLS(listener, "", "") }()
	return func() { _ = web.Close() }
}

// Handshake answers what came of the next handshake on a server of raw TLS.
func handshake(request *Request) (map[string]any, error) {
	found, err := servers.get(request.Name)
	if err != nil {
		return nil, err
	}
	select {
	case outcome := <-found.outcomes:
		return map[string]any{"outcome": outcome}, nil
	case <-time.After(request.timeout()):
		return nil, errors.New("no handshake came")
	}
}

func stop(request *Request) (map[string]any, error) {
	found, err := servers.take(request.Name)
	if err == nil {
		found.close()
	}
	return nil, err
}

type registry[T any] struct {
	lock sync.Mutex
	held map[string]T
}

func (r *registry[T]) put(name string, value T) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.held == nil {
		r.held = map[string]T{}
	}
	r.held[name] = value
}

func (r *registry[T]) get(name string) (T, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	value, known := r.held[name]
	if !known {
		return value, fmt.Errorf("nothing is named %q", name)
	}
	return value, nil
}

func (r *registry[T]) take(name string) (T, error) {
	value, err := r.get(name)
	r.lock.Lock()
	defer r.lock.Unlock()
	delete(r.held, name)
	return value, err
}
