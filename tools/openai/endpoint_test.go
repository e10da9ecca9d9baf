package openai_test

import (
	"bufio"
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"metacap/capflow"
	"metacap/capflow/endpoint"
	"metacap/engine"
)

// start runs the server as a process and returns its base URL.
func start(t *testing.T) string {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveVar+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return "http://" + strings.TrimSpace(line) + "/v1"
}

func picture(t *testing.T) engine.Image {
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, 64, 48))))
	return engine.Image{Data: b.Bytes()}
}

// TestOfficialClient: the server speaks the protocol as the official client reads it.
func TestOfficialClient(t *testing.T) {
	c := openai.NewClient(option.WithBaseURL(start(t)), option.WithAPIKey("none"), option.WithMaxRetries(0))
	got, err := c.Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{
		Model: "m", Logprobs: openai.Bool(true), TopLogprobs: openai.Int(20),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Is it? Answer Yes or No.")},
	})
	require.NoError(t, err)
	require.Equal(t, "Yes", got.Choices[0].Message.Content)
	require.Equal(t, "No", got.Choices[0].Logprobs.Content[0].TopLogprobs[1].Token)
	require.EqualValues(t, 64, got.Usage.PromptTokensDetails.CachedTokens)
}

// TestFlows: every mode runs with all roles behind the server, whose official
// types accept each request; the record says what the protocol cannot do.
func TestFlows(t *testing.T) {
	m, err := endpoint.New(endpoint.Options{URL: start(t), Model: "m", Tries: 1, Timeout: time.Minute})
	require.NoError(t, err)
	for _, mode := range capflow.Modes() {
		t.Run(string(mode), func(t *testing.T) {
			f, err := capflow.New(m, capflow.Options{Mode: mode})
			require.NoError(t, err)
			r, err := f.Caption(context.Background(), capflow.Input{ID: "a", Images: []engine.Image{picture(t)}})
			require.NoError(t, err)
			require.Nil(t, r.Error)
			require.Equal(t, capflow.Accepted, r.Status, "%+v", r.Checks)
			require.Equal(t, "A cat sits on a mat. There are 2 birds.", r.Captions.Long)
			require.Equal(t, []string{"m"}, r.Prov.External)
			require.Positive(t, r.Usage.Calls)
			if mode == capflow.Verified {
				require.Contains(t, strings.Join(r.Checks.Off, "\n"), "grounding: the model scores no given text")
				require.InDelta(t, 0.9, *r.Checks.Claims[0].Claim, 0.02, "the probabilities of top_logprobs")
			}
		})
	}
}
