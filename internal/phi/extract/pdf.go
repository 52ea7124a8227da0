package extract

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/ledongthuc/pdf"
)

// pdfSlots bounds the readers at work: a file that makes the reader loop costs
// a slot, not the gateway. With all slots gone every PDF is a timeout.
var pdfSlots = make(chan struct{}, 4)

const pdfTime = 5 * time.Second

// pdf reads the text layer. It runs beside the walker so that the walker can go
// on when its time is up.
func (w *walker) pdf(at spot, data []byte) {
	ctx, cancel := context.WithTimeout(w.ctx, pdfTime)
	defer cancel()
	select {
	case pdfSlots <- struct{}{}:
	case <-ctx.Done():
		w.cannot(at.path(), Timeout)
		return
	}
	done := make(chan pdfResult, 1)
	go func() {
		defer func() { <-pdfSlots }()
		done <- readPDF(ctx, data, int(w.left))
	}()
	select {
	case r := <-done:
		w.spend(int64(len(r.text)))
		w.add(Part{Path: at.path(), Kind: File, Text: r.text})
		if r.why != "" {
			w.cannot(at.path(), r.why)
		}
	case <-ctx.Done():
		w.cannot(at.path(), Timeout)
	}
}

type pdfResult struct {
	text string
	why  Reason
}

func readPDF(ctx context.Context, data []byte, limit int) (res pdfResult) {
	var out strings.Builder
	defer func() {
		if recover() != nil {
			res = pdfResult{out.String(), Malformed}
		}
	}()
	r, err := pdf.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		if errors.Is(err, pdf.ErrInvalidPassword) || bytes.Contains(data, []byte("/Encrypt")) {
			return pdfResult{why: Encrypted}
		}
		return pdfResult{why: Malformed}
	}
	pages := r.NumPage()
	for i := 1; i <= pages; i++ {
		if ctx.Err() != nil {
			return pdfResult{out.String(), Timeout}
		}
		if out.Len() > limit || i > 2000 {
			return pdfResult{out.String(), TooLarge}
		}
		pdfLines(&out, r.Page(i).Content().Text)
	}
	pdfFields(&out, r.Trailer())
	if strings.TrimSpace(out.String()) == "" && pages > 0 {
		return pdfResult{"", ImageOnly}
	}
	return pdfResult{text: out.String()}
}

// pdfLines sets glyphs back into lines and words by where they stand: a new
// height is a new line, a gap wider than a fifth of the size is a space.
func pdfLines(out *strings.Builder, glyphs []pdf.Text) {
	for i, g := range glyphs {
		if i > 0 {
			last := glyphs[i-1]
			size := max(g.FontSize, last.FontSize, 1)
			gap := g.X - (last.X + last.W)
			switch {
			case math.Abs(g.Y-last.Y) > size*0.5:
				out.WriteByte('\n')
			case gap > size*3:
				out.WriteByte('\t')
			case last.W > 0 && (gap > size*0.2 || gap < -size*2):
				out.WriteByte(' ')
			}
		}
		out.WriteString(g.S)
	}
	out.WriteByte('\n')
}

// pdfFields adds the document information and the values of form fields.
func pdfFields(out *strings.Builder, trailer pdf.Value) {
	info := trailer.Key("Info")
	for _, k := range []string{"Title", "Subject", "Author", "Keywords"} {
		if v := info.Key(k); v.Kind() == pdf.String {
			out.WriteString(v.Text() + "\n")
		}
	}
	fields := trailer.Key("Root").Key("AcroForm").Key("Fields")
	for i := range min(fields.Len(), 5000) {
		f := fields.Index(i)
		name, value := f.Key("T"), f.Key("V")
		if value.Kind() == pdf.String {
			out.WriteString(name.Text() + ": " + value.Text() + "\n")
		}
	}
}
