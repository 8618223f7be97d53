// The relay to compare with: Go's own reverse proxy, as it comes.
//
//	proxy LISTEN_ADDRESS TARGET_URL
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	target, err := url.Parse(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(os.Args[1], httputil.NewSingleHostReverseProxy(target)))
}
