// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

const echoMethod = "/interop.Echo/Say"

// Bytes is the codec of messages that are bytes.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "bytes" }

func (bytesCodec) Marshal(v any) ([]byte, error) {
	if value, ok := v.(*[]byte); ok {
		return *value, nil
	}
	return nil, errors.New("not bytes")
}

func (bytesCodec) Unmarshal(data []byte, v any) error {
	if value, ok := v.(*[]byte); ok {
		*value = append([]byte{}, data...)
		return nil
	}
	return errors.New("not bytes")
}

func dialGRPC(ctx context.Context, request *Request) (map[string]any, error) {
	own, bundles, authorizer, done, err := request.parties()
	if err != nil {
		return nil, err
	}
	defer done()
	secure := grpccredentials.TLSClientCredentials(bundles, authorizer)
	if request.Present {
		secure = grpccredentials.MTLSClientCredentials(own, bundles, authorizer)
	}
	connection, err := grpc.NewClient("passthrough:///"+request.Address, grpc.WithTransportCredentials(secure))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	in, out, far := []byte(request.Payload), []byte{}, peer.Peer{}
	err = connection.Invoke(ctx, echoMethod, &in, &out, grpc.ForceCodec(bytesCodec{}), grpc.Peer(&far))
	result := map[string]any{"answer": string(out)}
	if id, known := grpccredentials.PeerIDFromPeer(&far); known {
		result["peer"] = id.String()
	}
	return result, err
}

// ServeGRPC answers each call with the client's SPIFFE ID and what it said.
func serveGRPC(listener net.Listener, request *Request) (func(), error) {
	own, bundles, authorizer, done, err := request.parties()
	if err != nil {
		return nil, err
	}
	made := grpc.NewServer(
		grpc.Creds(grpccredentials.MTLSServerCredentials(own, bundles, authorizer)),
		grpc.ForceServerCodec(bytesCodec{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			in := []byte{}
			if err := stream.RecvMsg(&in); err != nil {
				return err
			}
			id, _ := grpccredentials.PeerIDFromContext(stream.Context())
			out := append([]byte(id.String()+" "), in...)
			return stream.SendMsg(&out)
		}))
	go func() { _ = made.Serve(listener) }()
	return func() { made.Stop(); done() }, nil
}
