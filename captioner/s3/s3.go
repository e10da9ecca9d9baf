// Package s3 reads the inputs of captioning jobs from S3 and the stores that speak
// its protocol. It is a captioner.Remote on top of minio-go, which does signatures,
// retries, listing and the usual sources of credentials.
package s3

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/url"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"metacap/captioner"
)

// Options say where the store is. The zero value is Amazon's, with credentials from
// the usual places.
type Options struct {
	// Endpoint is the store's URL, as "http://127.0.0.1:9000"; empty = Amazon's.
	Endpoint string
	Region   string // empty = asked of the store
	// AccessKey and SecretKey; empty = those of the AWS_* environment, else of the
	// shared credentials file, else (on Amazon's) of the machine's role, else none.
	AccessKey, SecretKey, SessionToken string
	Profile                            string // in the credentials file; empty = default
}

// Store reads objects. Its methods may be called from any goroutine.
type Store struct{ client *minio.Client }

var _ captioner.Remote = (*Store)(nil)

// New returns a store. It connects to nothing.
func New(o Options) (*Store, error) {
	host, secure := "s3.amazonaws.com", true
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" {
			return nil, fmt.Errorf("s3: endpoint %q: want http://HOST:PORT or https://HOST", o.Endpoint)
		}
		host, secure = u.Host, u.Scheme == "https"
	}
	var creds *credentials.Credentials
	if o.AccessKey != "" {
		creds = credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	} else {
		chain := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{Profile: o.Profile}}
		if o.Endpoint == "" { // elsewhere nobody answers at the address of Amazon's roles
			chain = append(chain, &credentials.IAM{})
		}
		creds = credentials.NewChainCredentials(chain)
	}
	c, err := minio.New(host, &minio.Options{Creds: creds, Secure: secure, Region: o.Region})
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	return &Store{c}, nil
}

// List implements captioner.Remote.
func (s *Store) List(ctx context.Context, bucket, prefix string) iter.Seq2[captioner.Object, error] {
	return func(yield func(captioner.Object, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for o := range s.client.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if o.Err != nil {
				yield(captioner.Object{}, fmt.Errorf("s3: list: %w", o.Err))
				return
			}
			if !yield(captioner.Object{Key: o.Key, Size: o.Size, MTime: o.LastModified.UnixNano()}, nil) {
				return
			}
		}
	}
}

// Open implements captioner.Remote.
func (s *Store) Open(ctx context.Context, bucket, key string, offset, length int64) (io.ReadCloser, error) {
	var o minio.GetObjectOptions
	var err error
	switch {
	case length >= 0:
		err = o.SetRange(offset, offset+length-1)
	case offset > 0:
		err = o.SetRange(offset, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("s3: range from %d, %d bytes: %w", offset, length, err)
	}
	r, err := s.client.GetObject(ctx, bucket, key, o)
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	return r, nil
}
