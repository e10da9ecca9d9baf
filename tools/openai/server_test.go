package openai_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
)

// serveVar is the variable that makes the test binary a server: the process that
// the tests talk to. It knows nothing of metacap; requests are read with the
// official types, and what those do not allow is refused.
const serveVar = "OPENAI_TEST_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serveVar) == "" {
		os.Exit(m.Run())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	http.HandleFunc("POST /v1/chat/completions", complete)
	fmt.Fprintln(os.Stderr, http.Serve(l, nil))
	os.Exit(1)
}

func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": why, "type": "invalid_request_error", "param": nil, "code": nil}})
}

// complete answers one request.
func complete(w http.ResponseWriter, r *http.Request) {
	var p openai.ChatCompletionNewParams
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		refuse(w, err.Error())
		return
	}
	if p.Model == "" || len(p.Messages) == 0 {
		refuse(w, "model and messages are required")
		return
	}
	user := p.Messages[len(p.Messages)-1].OfUser
	if user == nil {
		refuse(w, "the last message is not the user's")
		return
	}
	text := user.Content.OfString.Value
	for _, part := range user.Content.OfArrayOfContentParts {
		switch {
		case part.OfText != nil:
			text += part.OfText.Text
		case part.OfImageURL != nil:
			if !strings.HasPrefix(part.OfImageURL.ImageURL.URL, "data:image/") {
				refuse(w, "image_url is no data URL")
				return
			}
		default:
			refuse(w, "a content part of another kind")
			return
		}
	}
	reply(w, &p, text)
}

func reply(w http.ResponseWriter, p *openai.ChatCompletionNewParams, text string) {
	said := answer(text)
	var logprobs any
	if p.Logprobs.Value {
		token := func(s string, lp float64) map[string]any {
			return map[string]any{"token": s, "logprob": lp, "bytes": []byte(nil), "top_logprobs": []any{}}
		}
		first := token(said, -0.1)
		if p.TopLogprobs.Value > 0 {
			first["top_logprobs"] = []any{token(said, -0.1), token("No", -2.4)}
		}
		logprobs = map[string]any{"content": []any{first}, "refusal": nil}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": p.Model,
		"choices": []any{map[string]any{
			"index": 0, "finish_reason": "stop", "logprobs": logprobs,
			"message": map[string]any{"role": "assistant", "content": said, "refusal": nil},
		}},
		"usage": map[string]any{
			"prompt_tokens": 100, "completion_tokens": len(strings.Fields(said)), "total_tokens": 100 + len(strings.Fields(said)),
			"prompt_tokens_details": map[string]any{"cached_tokens": 64},
		},
	})
}

func answer(text string) string {
	switch {
	case strings.Contains(text, "Which domain"):
		return "A"
	case strings.Contains(text, "Yes or No"):
		return "Yes"
	case strings.Contains(text, "Rate the"):
		return "3"
	}
	return "A cat sits on a mat. There are 2 birds."
}
