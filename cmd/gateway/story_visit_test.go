package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// browser is a person's or a scanner's.
type browser struct {
	*http.Client
	base string
}

// page is what a browser shows.
type page struct {
	status int
	path   string
	text   string
}

func newBrowser(link string) (*browser, error) {
	u, err := url.Parse(link)
	if err != nil || u.Host == "" {
		return nil, errors.New("no pickup link has arrived")
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &browser{&http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}, u.Scheme + "://" + u.Host}, nil
}

func (b *browser) do(method, target string, form url.Values) (page, error) {
	if strings.HasPrefix(target, "/") {
		target = b.base + target
	}
	req, err := http.NewRequest(method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return page{}, err
	}
	if method == "POST" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", b.base)
	}
	resp, err := b.Do(req)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return page{resp.StatusCode, resp.Request.URL.Path, string(text)}, err
}

var (
	tags     = regexp.MustCompile(`(?s)<style.*?</style>|<[^>]*>`)
	formPath = regexp.MustCompile(`<form method="post" action="([^"]+)"`)
	title    = regexp.MustCompile(`<title>([^<]*)</title>`)
)

// words is the page's text.
func (p page) words() string { return html.UnescapeString(tags.ReplaceAllString(p.text, " ")) }

func (p page) print(w io.Writer) {
	fmt.Fprintf(w, "%d %s\n", p.status, strings.Join(strings.Fields(p.words()), " "))
}

// lastLink is the pickup link in the last notice to an address.
func (s *story) lastLink(address string) string {
	return (&demo{net: s.net}).link(address)
}

func (s *story) lastCode(address string) string {
	box := s.net.Mailbox(address)
	for i := len(box) - 1; i >= 0; i-- {
		if code := codeMail.FindSubmatch(box[i].Data); code != nil {
			return string(code[1])
		}
	}
	return ""
}

// visit opens the link and asks for a code, as a person does.
func (s *story) visit(address string) (b *browser, form string, err error) {
	link := s.lastLink(address)
	if b, err = newBrowser(link); err != nil {
		return nil, "", err
	}
	p, err := b.do("GET", link, nil)
	if err != nil {
		return nil, "", err
	}
	if p.status != http.StatusOK {
		return b, "", fmt.Errorf("the link says %d", p.status)
	}
	before := len(s.net.Mailbox(address))
	if p, err = b.do("POST", p.path+"/code", url.Values{"go": {"send"}}); err != nil {
		return nil, "", err
	}
	if p.status != http.StatusOK {
		return b, "", fmt.Errorf("asked for a code, the page says %d", p.status)
	}
	if err := s.cmdSettle(nil, nil); err != nil {
		return nil, "", err
	}
	if len(s.net.Mailbox(address)) == before {
		return b, "", errors.New("no code was mailed")
	}
	return b, p.path + "/open", nil
}

func (s *story) cmdPickup(ts *testscript.TestScript, args []string) error {
	b, form, err := s.visit(args[0])
	if err != nil {
		return err
	}
	p, err := b.do("POST", form, url.Values{"code": {s.lastCode(args[0])}})
	if err != nil {
		return err
	}
	p.print(ts.Stdout())
	if t := title.FindString(p.text); strings.Contains(t, phiWord) || strings.Contains(p.path, phiWord) {
		return errors.New("the page's title or address speaks of the message")
	}
	if p.status != http.StatusOK {
		return errors.New("not let in")
	}
	return nil
}

func (s *story) cmdGuess(ts *testscript.TestScript, args []string) error {
	b, form, err := s.visit(args[0])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		wrong := "000000"
		if s.lastCode(args[0]) == wrong {
			wrong = "000001"
		}
		p, err := b.do("POST", form, url.Values{"code": {wrong}})
		if err != nil {
			return err
		}
		fmt.Fprintln(ts.Stdout(), p.status)
	}
	return nil
}

// cmdScanner does what has been seen of mail scanners: it follows the link more
// than once, with GET and HEAD, and submits every form it finds, without the
// value of a button that nobody pressed.
func (s *story) cmdScanner(ts *testscript.TestScript, args []string) error {
	link := s.lastLink(args[0])
	b, err := newBrowser(link)
	if err != nil {
		return err
	}
	for _, method := range []string{"HEAD", "GET", "GET", "GET"} {
		p, err := b.do(method, link, nil)
		if err != nil {
			return err
		}
		for _, form := range formPath.FindAllStringSubmatch(p.text, -1) {
			answer, err := b.do("POST", form[1], url.Values{})
			if err != nil {
				return err
			}
			fmt.Fprintln(ts.Stdout(), form[1][strings.LastIndex(form[1], "/")+1:], answer.status)
		}
	}
	return nil
}

func (s *story) cmdLink(ts *testscript.TestScript, args []string) error {
	link := s.lastLink(args[0])
	b, err := newBrowser(link)
	if err != nil {
		return err
	}
	p, err := b.do("GET", link, nil)
	if err != nil {
		return err
	}
	p.print(ts.Stdout())
	if p.status != http.StatusOK {
		return errors.New("the link does not open")
	}
	return nil
}
