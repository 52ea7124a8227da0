package tlscheck

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	for in, want := range map[string]struct {
		code  int
		lines string
	}{
		"220 mx ready\r\n":              {220, "mx ready"},
		"220\r\n":                       {220, ""},
		"220 \n":                        {220, ""},
		"250-a\r\n250-b c\r\n250 d\r\n": {250, "a|b c|d"},
		"250-a\r\n251 d\r\n":            {},
		"250-a\r\n":                     {},
		"25 x\r\n":                      {},
		"250x\r\n":                      {},
		"999 x\r\n":                     {},
		"150 x\r\n":                     {},
		"HTTP/1.1 400 Bad\r\n":          {},
		"":                              {},
		"220 " + strings.Repeat("x", 3000) + "\n": {},
		strings.Repeat("220-x\r\n", 5000):         {},
		"\r\n220 x\r\n":                           {},
	} {
		r, err := readReply(bufio.NewReaderSize(strings.NewReader(in), replyLine))
		if (err == nil) != (want.code != 0) || err == nil && (r.code != want.code || strings.Join(r.lines, "|") != want.lines) {
			t.Errorf("%.40q: %+v, %v", in, r, err)
		}
	}
}

func TestOffers(t *testing.T) {
	r := reply{250, []string{"STARTTLS greets you", "size 10", " starttls ", "AUTH STARTTLSX"}}
	if !r.offers("STARTTLS") || !r.offers("SIZE") || r.offers("STARTTLSX") {
		t.Error("keywords misread")
	}
	if (reply{250, []string{"STARTTLS"}}).offers("STARTTLS") {
		t.Error("the name of the peer counts as a keyword")
	}
}

func FuzzReply(f *testing.F) {
	f.Add("220 x\r\n")
	f.Add("250-a\r\n250 b\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := readReply(bufio.NewReaderSize(strings.NewReader(s), replyLine))
		if err == nil && (r.code < 200 || r.code > 599 || len(r.lines) == 0) {
			t.Errorf("%+v", r)
		}
	})
}

func TestSaidKeepsWordsToItself(t *testing.T) {
	f := refused("greeting", reply{421, []string{"4.7.0 pat@clinic.example", "4.7.0 waits"}})
	if f.Said != (Said{421, "4.7.0", "pat@clinic.example\nwaits"}) {
		t.Error("the reply is read wrongly")
	}
	if s := (reply{554, []string{"no"}}).said(); s != (Said{554, "", "no"}) {
		t.Error("a reply without status is read wrongly")
	}
	if got := fmt.Sprintf("%v %+v %#v", f, *f, f.Said); strings.Contains(got, "pat") {
		t.Errorf("printed %s", got)
	}
}
