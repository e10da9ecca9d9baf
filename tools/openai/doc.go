// Package openai holds the tests of capflow/endpoint against the official Go
// client of OpenAI's protocol (github.com/openai/openai-go). It is a module of
// its own, so that metacap depends on nothing of it:
//
//	cd tools/openai && go test ./...
package openai
