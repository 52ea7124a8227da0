package tlscheck

import (
	"bufio"
	"errors"
	"regexp"
	"strings"
)

// What a peer may say before TLS: RFC 5321 §4.5.3.1.5 allows 512 octets a line;
// more is tolerated, without letting a peer fill memory.
const (
	replyLine  = 2048
	replyLines = 128
)

var (
	errReply     = errors.New("not an SMTP reply")
	errReplyLong = errors.New("SMTP reply too long")
)

// reply is one SMTP reply; lines hold the text behind the code.
type reply struct {
	code  int
	lines []string
}

// readReply reads one reply of any number of lines (RFC 5321 §4.2.1). br must
// hold replyLine bytes at least.
func readReply(br *bufio.Reader) (reply, error) {
	var r reply
	for range replyLines {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return r, errReplyLong
		}
		if err != nil {
			return r, err
		}
		code, more, text, err := replyLineParts(strings.TrimRight(string(line), "\r\n"))
		if err != nil || len(r.lines) > 0 && code != r.code {
			return r, errReply
		}
		r.code, r.lines = code, append(r.lines, text)
		if !more {
			return r, nil
		}
	}
	return r, errReplyLong
}

// replyLineParts splits "250-SIZE 100" into 250, true and "SIZE 100".
func replyLineParts(s string) (code int, more bool, text string, err error) {
	if len(s) < 3 || s[0] < '2' || s[0] > '5' || !digit(s[1]) || !digit(s[2]) {
		return 0, false, "", errReply
	}
	code = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	switch {
	case len(s) == 3:
		return code, false, "", nil
	case s[3] == '-' || s[3] == ' ':
		return code, s[3] == '-', s[4:], nil
	}
	return 0, false, "", errReply
}

// status is an enhanced status code at the beginning of a reply's text (RFC 2034 §4).
var status = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3} `)

// said is the reply as a Failure carries it.
func (r reply) said() Said {
	s := Said{Code: r.code}
	for i, line := range r.lines {
		if m := status.FindString(line); m != "" {
			s.Enhanced, line = strings.TrimSpace(m), line[len(m):]
		}
		if i > 0 {
			s.Text += "\n"
		}
		s.Text += line
	}
	return s
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// offers reports whether an EHLO reply has a keyword. Keywords are read without
// regard to case (RFC 5321 §2.4); the first line is the peer's name.
func (r reply) offers(keyword string) bool {
	for i, line := range r.lines {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if i > 0 && strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}
