package tlscheck

import (
	"errors"
	"fmt"
	"slices"
)

// FailureClass says what a failed attempt means for the message. The queue acts
// on nothing else.
type FailureClass uint8

const (
	// Unknown: DNS failed or is bogus, the policy cache is unreadable, or the
	// resolver stopped validating. Try again until the floor's deadline.
	Unknown FailureClass = iota
	// PolicyFail: the peer answered and does not meet the floor. Once every MX
	// has said so and [Checker.Recheck] agrees, trying again is useless.
	PolicyFail
	// Transport: not reached, or put off. Try again until the floor's deadline.
	Transport
	// Indeterminate: the final dot was sent and the reply lost. The peer may
	// hold the message: try again over TLS, never turn it into a pickup too.
	Indeterminate
	// Permanent: the domain takes no such mail. Bounce, without the body.
	Permanent
)

var classNames = [...]string{"unknown", "policy", "transport", "indeterminate", "permanent"}

func (c FailureClass) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("invalid(%d)", uint8(c))
}

// Failure is why a domain could not be planned or a host not be used. Its text
// holds host names, never a mail address or words of the peer.
type Failure struct {
	Class    FailureClass
	Reason   string // what happened, in words of ours
	RFC      string // the section that demands this outcome, "" if none does
	TLSRPT   string // RFC 8460 §4.3 result type, "" if it has none
	Code     int    // SMTP reply code for a bounce, 0 if the class is not Permanent
	Enhanced string // enhanced status code (RFC 3463) that says the same
	Err      error  // cause, nil if Reason says it all
	Said     Said   // the reply that was the refusal, zero if there was none

	tls bool // the peer speaks SMTP, and it is TLS that failed
}

// Said is what a peer replied. It prints as its code alone: the text may repeat
// an address.
type Said struct {
	Code     int
	Enhanced string // RFC 3463, "" if none was given
	Text     string `json:"-"`
}

// Format prints the code under every verb.
func (s Said) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.Code) }

func (f *Failure) Error() string {
	s := f.Class.String() + ": " + f.Reason
	if f.Err != nil {
		s += ": " + f.Err.Error()
	}
	return s
}

func (f *Failure) Unwrap() error { return f.Err }

// ClassOf returns the class of the first Failure in err's chain, and Unknown,
// the cautious one, if there is none.
func ClassOf(err error) FailureClass {
	var f *Failure
	if errors.As(err, &f) {
		return f.Class
	}
	return Unknown
}

// asFailure returns err's Failure, or err wrapped in an Unknown one.
func asFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Class: Unknown, Reason: "internal error", Err: err}
}

// worst folds the failures of several hosts into the domain's: a failure that a
// retry may mend outweighs a definite one, so that one broken lookup cannot
// turn a message over to its Else. Of no failures at all nothing is known.
func worst(fs []*Failure) *Failure {
	rank := map[FailureClass]int{Unknown: 4, Transport: 3, Indeterminate: 3, PolicyFail: 2, Permanent: 1}
	if len(fs) == 0 {
		return &Failure{Class: Unknown, Reason: "no host is known"}
	}
	return slices.MaxFunc(fs, func(a, b *Failure) int { return rank[a.Class] - rank[b.Class] })
}
