// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"time"
)

// BenchDial makes `count` connections one after the other, each with a line there and back.
func benchDial(request *Request) (map[string]any, error) {
	config, done, err := clientConfig(request)
	if err != nil {
		return nil, err
	}
	defer done()
	begin := time.Now()
	for range request.Count {
		if err := once(request.Address, config); err != nil {
			return nil, err
		}
	}
	return map[string]any{"seconds": time.Since(begin).Seconds()}, nil
}

func once(address string, config *tls.Config) error {
	connection, err := tls.Dial("tcp", address, config)
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, "x\n"); err != nil {
		return err
	}
	_, err = bufio.NewReader(connection).ReadString('\n')
	return err
}

// React connects to the address as soon as the source's X509-SVID is another, `count` times.
func react(request *Request) (map[string]any, error) {
	source, err := sources.get(request.Identity.Source)
	if err != nil {
		return nil, err
	}
	config, _, err := clientConfig(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), request.timeout())
	defer cancel()
	for range request.Count {
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return nil, err
		}
		if err := once(request.Address, config); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
