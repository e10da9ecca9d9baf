//go:build nodemo

package demo

// files is empty: the binary was built with the tag nodemo.
var files map[string][]byte
