// Command etcd is etcd v3.6 as a module dependency: its own main package is not importable.
package main

import (
	"go.etcd.io/etcd/server/v3/etcdmain"
	"os"
)

func main() { etcdmain.Main(os.Args) }
