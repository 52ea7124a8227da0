package policy

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/yamlfile"
)

// Policy is a policy.yaml that was read without a mistake. It never changes and
// may be used by many goroutines. The zero Policy holds all mail.
type Policy struct {
	file         string
	hash         string
	parsed       time.Time
	organization Organization
	senders      []Sender
	detection    Detection
	transport    [FloorPlain + 1]floorEntry
	rules        []rule
	table        table
}

// floorEntry is an entry of `transport:`.
type floorEntry struct {
	floor        Floor
	within       time.Duration
	otherwise    Action
	line, column int
}

// Organization is whose mail the gateway sends.
type Organization struct {
	Name          string
	Kind          SenderClass
	Domains       []string // lower case
	PostalAddress string
	Overlays      []string // us-ca, us-tx, us-wa
}

// Detection says how a scan's score becomes a band of [PHI].
type Detection struct {
	Medium, High     float64 // lowest score of the band, 0 to 1
	CareRelationship bool
	TermsFile        string // relative to policy.yaml, "" if none
}

// Refusal is what the submitting tool is told when a recipient is refused.
type Refusal uint8

const (
	RefuseHard    Refusal = iota // the 5xx reply
	RefuseHold                   // 250, held until the records change
	RefuseDiscard                // 250, dropped, in the daily report
)

var refusalNames = names{"hard", "hold", "discard_with_report"}

func (v Refusal) String() string { return refusalNames.text(uint8(v)) }

// Sender is a tool that may submit mail.
type Sender struct {
	Name          string
	Login         string         // SMTP AUTH user, "" if it has none
	Networks      []netip.Prefix // where it may submit from without a password
	From          []string       // patterns of MayUse, lower case
	Partner       string         // whose BAA covers it, "self", or "" for none
	Class         Class
	Audience      Audience
	Remuneration  Remuneration
	StripTrackers bool
	VERP          bool             // variable return paths
	OnRefusal     map[Code]Refusal // by code; "default" for all others
	Limits        SenderLimits
}

// SenderLimits bound how many recipients a sender may name; zero is no limit.
type SenderLimits struct {
	Rate  yamlfile.Rate
	Daily int // in a day of UTC
}

// MayUse reports whether the sender may use an address in MAIL FROM or From.
// Case does not count. "*@clinic.example" allows every mailbox of that domain,
// not of its subdomains.
func (s Sender) MayUse(a Address) bool {
	key := a.Key()
	at := strings.LastIndexByte(key, '@')
	if at <= 0 {
		return false
	}
	return slices.Contains(s.From, key) || slices.Contains(s.From, "*"+key[at:])
}

// Refusal returns what the sender's tool is told for a code.
func (s Sender) Refusal(c Code) Refusal {
	if r, ok := s.OnRefusal[c]; ok {
		return r
	}
	return s.OnRefusal["default"]
}

// Hash returns the SHA-256 of the file in hex, by which the audit log names it.
func (p *Policy) Hash() string { return p.hash }

// Organization returns whose mail this is.
func (p *Policy) Organization() Organization { return p.organization }

// Detection returns the bands of the scan.
func (p *Policy) Detection() Detection { return p.detection }

// Senders returns the senders in the order of the file.
func (p *Policy) Senders() []Sender { return slices.Clone(p.senders) }

// Sender returns the sender of a name.
func (p *Policy) Sender(name string) (Sender, bool) {
	return p.sender(func(s Sender) bool { return s.Name == name })
}

// SenderByLogin returns the sender of an SMTP AUTH user, case counting.
func (p *Policy) SenderByLogin(login string) (Sender, bool) {
	return p.sender(func(s Sender) bool { return s.Login != "" && s.Login == login })
}

func (p *Policy) sender(is func(Sender) bool) (Sender, bool) {
	if i := slices.IndexFunc(p.senders, is); i >= 0 {
		return p.senders[i], true
	}
	return Sender{}, false
}

// SendersAt returns the senders that may submit from an address without a
// password, in the order of the file. The address of MAIL FROM chooses between
// several.
func (p *Policy) SendersAt(from netip.Addr) []Sender {
	from = from.Unmap()
	var out []Sender
	for _, s := range p.senders {
		if slices.ContainsFunc(s.Networks, func(n netip.Prefix) bool { return n.Contains(from) }) {
			out = append(out, s)
		}
	}
	return out
}

// Floor returns what `transport:` says under a name: the floor, how long to look
// for a route that meets it, and what is done when there is none. An unknown
// name has the strictest floor.
func (p *Policy) Floor(n FloorName) (floor Floor, within time.Duration, otherwise Action) {
	if int(n) >= len(p.transport) {
		return Floor{}, 0, Hold
	}
	e := p.transport[n]
	return e.floor, e.within, e.otherwise
}
