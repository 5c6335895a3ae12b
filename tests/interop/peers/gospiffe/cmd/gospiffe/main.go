// SPDX-License-Identifier: Apache-2.0

// Gospiffe does with go-spiffe what the tests ask for: one JSON request a line on its standard input, one answer a
// line on its standard output, many at once. It ends when its standard input does.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// Request says what to do; each operation uses the fields that it needs.
type Request struct {
	Seq       int       `json:"seq"`
	Op        string    `json:"op"`
	Identity  *Identity `json:"identity"`
	Authorize Policy    `json:"authorize"`
	Present   bool      `json:"present"` // an X509-SVID of our own, or only bundles
	Transport string    `json:"transport"`
	Address   string    `json:"address"`
	ALPN      []string  `json:"alpn"`
	MaxTLS    string    `json:"max_tls"`
	Name      string    `json:"name"` // of a server or source that an earlier request made
	Payload   string    `json:"payload"`
	Not       string    `json:"not"` // a serial number that is not waited for
	Count     int       `json:"count"`
	Seconds   float64   `json:"seconds"`
}

func (r *Request) timeout() time.Duration {
	if r.Seconds == 0 {
		return 20 * time.Second
	}
	return time.Duration(r.Seconds * float64(time.Second))
}

type operation func(*Request) (map[string]any, error)

var operations = map[string]operation{
	"version":   version,
	"parse_id":  parseID,
	"verify":    verify,
	"dial":      dial,
	"serve":     serve,
	"handshake": handshake,
	"stop":      stop,
	"fetch":     fetch,
	"source":    openSource,
	"svid":      svid,
	"updated":   updated,
	"close":     closeSource,
	"bench":     benchDial,
	"react":     react,
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	var out sync.Mutex
	encoder := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		request := &Request{Present: true}
		if err := json.Unmarshal(lines.Bytes(), request); err != nil {
			fmt.Fprintln(os.Stderr, "unreadable request:", err)
			os.Exit(2)
		}
		go func() {
			answer := answer(request)
			out.Lock()
			defer out.Unlock()
			_ = encoder.Encode(answer)
		}()
	}
}

func answer(request *Request) map[string]any {
	do, known := operations[request.Op]
	if !known {
		return map[string]any{"seq": request.Seq, "error": "no such operation: " + request.Op}
	}
	answer, err := do(request)
	if answer == nil {
		answer = map[string]any{}
	}
	answer["seq"] = request.Seq
	if err != nil {
		answer["error"] = err.Error()
	}
	fmt.Fprintf(os.Stderr, "%s %s %s -> %v\n", request.Op, request.Transport, request.Address, err)
	return answer
}

func version(*Request) (map[string]any, error) {
	info, _ := debug.ReadBuildInfo()
	versions := map[string]any{"go": info.GoVersion}
	for _, module := range info.Deps {
		versions[module.Path] = module.Version
	}
	return versions, nil
}
