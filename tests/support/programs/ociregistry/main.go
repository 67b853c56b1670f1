// ociregistry serves a registry in memory, on a free port of the loopback interface.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
)

func main() {
	immutable := flag.Bool("immutable", false, "refuse to put a tag on another manifest")
	flag.Parse()
	if err := serve(*immutable); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(immutable bool) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	registry := ocimem.NewWithConfig(&ocimem.Config{ImmutableTags: immutable})
	return http.Serve(listener, ociserver.New(registry, nil))
}
