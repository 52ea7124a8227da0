package gateway

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/phigate/phigate/internal/delivery"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/queue/bounce"
	"github.com/phigate/phigate/tlscheck"
)

// ending is what an attempt left behind: how the connection was proved, what
// the other server said and what that is about. It prints no word of a peer.
type ending struct {
	tls    tlscheck.Evidence
	reply  bounce.Reply // zero if nothing was said
	found  bounce.Reply // zero unless we know without asking that the mail cannot be delivered
	about  bounce.Verdict
	notify string // RFC 3461 NOTIFY, kept for a bounce that comes back later
	why    string // codes and host names of ours, for the record
}

// refusal is the ending of an attempt that did not deliver. A connection that
// does not meet the floor is a refusal of our own, and so is mail that a server
// would not take, or for a domain that takes none.
func refusal(r delivery.Reply, evidence tlscheck.Evidence, err error) ending {
	end := ending{tls: evidence, reply: bounce.Reply{Code: r.Code, Enhanced: r.Enhanced, Text: r.Text}}
	if end.why = end.said(); err != nil {
		end.why = err.Error()
	}
	var f *tlscheck.Failure
	switch {
	case r.Code != 0:
		end.about = bounce.Shipped().Classify(end.reply)
	case !errors.As(err, &f):
	case f.Class == tlscheck.PolicyFail:
		end.about = bounce.Verdict{Class: bounce.TLS, Rule: "floor"}
	case f.Class == tlscheck.Permanent:
		end.found = bounce.Reply{Code: f.Code, Enhanced: f.Enhanced}
		end.about = bounce.Shipped().Classify(end.found)
	}
	return end
}

// said is the reply as it may be kept: its codes. Its text may echo an address.
func (end ending) said() string {
	if end.reply.Code == 0 {
		return ""
	}
	return strings.TrimSpace(strconv.Itoa(end.reply.Code) + " " + end.reply.Enhanced)
}

// last is what the queue keeps of the reply: its codes and its class.
func (end ending) last() string {
	if end.reply.Code == 0 {
		return ""
	}
	return end.said() + " " + string(end.about.Class)
}

// ours is the ending when we decide, whatever the other server said.
func (end ending) ours() ending {
	end.reply = bounce.Reply{}
	return end
}

// status is the RFC 3463 status for the sender: what the server said or we
// found, else what its words were about, else that of our code.
func (end ending) status(code policy.Code) string {
	for _, r := range []bounce.Reply{end.reply, end.found} {
		if r.Permanent() && r.Enhanced != "" {
			return r.Enhanced
		}
	}
	if end.reply.Permanent() && end.about.Class.Status() != "" {
		return end.about.Class.Status()
	}
	_, enhanced, _ := policy.Reply(code)
	return enhanced
}

// outOfTime is the ending of an envelope that was tried until its time ran out,
// with the last reply as the queue kept it.
func outOfTime(e store.Envelope) ending {
	codes, class := e.LastReply, bounce.Class("")
	if i := strings.LastIndexByte(codes, ' '); i >= 0 && slices.Contains(bounce.Classes(), bounce.Class(codes[i+1:])) {
		codes, class = codes[:i], bounce.Class(codes[i+1:])
	}
	end := ending{reply: bounce.Parse(codes), why: "time ran out"}
	if class != "" {
		end.about = bounce.Verdict{Class: class, Rule: "expired"}
	}
	return end
}

// codes are what the audit leaf holds of the reply.
func (end ending) codes(into map[string]string) {
	if end.reply.Code != 0 {
		into["reply"] = strconv.Itoa(end.reply.Code)
	}
	for name, value := range map[string]string{"notify": end.notify, "status": end.reply.Enhanced, "class": string(end.about.Class), "pattern": end.about.Rule} {
		if value != "" {
			into[name] = value
		}
	}
}
