//go:build tools

// Package peers names what is built from this module.

package peers

import _ "github.com/coredns/coredns"
