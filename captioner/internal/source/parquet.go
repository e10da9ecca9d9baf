package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// parquetRows reads a Parquet table row by row. The picture is a path column, or
// bytes: a binary column of that name, or the {bytes, path} struct that the
// datasets library writes.
func parquetRows(ctx context.Context, name string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		f, err := os.Open(name)
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %w", err))
			return
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %w", err))
			return
		}
		pf, err := parquet.OpenFile(f, st.Size())
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %s: %w", name, err))
			return
		}
		columns := pf.Schema().Columns()
		line := 0
		for _, group := range pf.RowGroups() {
			rows := group.Rows()
			ok := parquetGroup(name, rows, columns, &line, yield)
			if err := rows.Close(); err != nil && ok {
				ok = yield(Item{}, fmt.Errorf("source: %s: %w", name, err))
			}
			if !ok {
				return
			}
		}
	}
}

func parquetGroup(name string, rows parquet.Rows, columns [][]string, line *int, yield func(Item, error) bool) bool {
	buf := make([]parquet.Row, 16)
	for {
		n, err := rows.ReadRows(buf)
		for _, row := range buf[:n] {
			*line++
			if !yield(parquetItem(name, *line, row, columns), nil) {
				return false
			}
		}
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			yield(Item{}, fmt.Errorf("source: %s: row %d: %w", name, *line, err))
			return false
		}
	}
}

func parquetItem(name string, line int, row parquet.Row, columns [][]string) Item {
	fields := map[string]string{}
	var body []byte
	for _, v := range row {
		if v.IsNull() || v.Column() < 0 || v.Column() >= len(columns) {
			continue
		}
		column := columns[v.Column()]
		key := column[0]
		if len(column) > 1 && column[len(column)-1] == "bytes" || isPicture(v) {
			body = append([]byte(nil), v.ByteArray()...)
			continue
		}
		if len(column) > 1 && column[len(column)-1] != "path" {
			key = strings.Join(column, ".")
		}
		fields[key] = v.String()
	}
	if body == nil {
		return rowItem(name, line, fields)
	}
	it := Item{Key: fmt.Sprintf("%s#%d", name, line), Within: name, Member: fmt.Sprintf("row %d", line), Size: int64(len(body)), Fields: fields}
	it.read = func(_ context.Context, limit int64) ([]byte, error) {
		if int64(len(body)) > limit {
			return nil, &TooLargeError{Key: it.Key, Bytes: int64(len(body)), Limit: limit}
		}
		return body, nil
	}
	return it
}

// isPicture recognises encoded pictures in a plain binary column.
func isPicture(v parquet.Value) bool {
	if v.Kind() != parquet.ByteArray {
		return false
	}
	b := v.ByteArray()
	for _, magic := range []string{"\xff\xd8\xff", "\x89PNG\r\n\x1a\n", "GIF8", "BM", "II*\x00", "MM\x00*"} {
		if len(b) > 64 && strings.HasPrefix(string(b[:8]), magic) {
			return true
		}
	}
	return len(b) > 64 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP"
}
