package registry

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/phigate/phigate/internal/store"
)

var (
	// ErrPassword is returned when a password is wrong, or there is none for
	// the sender; nobody can tell which.
	ErrPassword = errors.New("registry: wrong sender or password")
	// ErrWeakPassword is returned by SetPassword for one of fewer than
	// MinPassword bytes.
	ErrWeakPassword = errors.New("registry: password too short, use at least 8 characters")
)

// MinPassword is the least bytes of a password (NIST SP 800-63B-4 §3.1.1.2 for
// one of several defences: guesses are slowed and cost a connection).
const MinPassword = 8

// rounds of PBKDF2-HMAC-SHA256 (OWASP, 2023). PBKDF2 because a FIPS build may
// use it (NIST SP 800-132), unlike bcrypt and argon2.
const rounds = 600_000

const passwordKey = "password"

// credential is how a password is kept.
type credential struct {
	Salt   []byte `json:"salt"`
	Rounds int    `json:"rounds"`
	Hash   []byte `json:"hash"`
}

func (c credential) derive(password string) ([]byte, error) {
	return pbkdf2.Key(sha256.New, password, c.Salt, c.Rounds, sha256.Size)
}

// SetPassword replaces the SMTP password of a sender.
func (r *Registry) SetPassword(ctx context.Context, sender, password, by string) error {
	if len(password) < MinPassword {
		return ErrWeakPassword
	}
	c := credential{Salt: make([]byte, 16), Rounds: r.rounds}
	rand.Read(c.Salt) // never fails
	var err error
	if c.Hash, err = c.derive(password); err != nil {
		return fmt.Errorf("registry: derive: %w", err)
	}
	value, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	now := r.opts.Now()
	return r.apply(ctx, store.Effects{
		Records: []store.Record{{Kind: string(credentials), Subject: sender, Key: passwordKey, Value: value}},
		Leaves:  []store.Leaf{r.opts.Leaf(Change{Time: now, Event: "imported", What: credentials, ID: r.ids.New(now), Subject: sender, By: by})},
	})
}

// CheckPassword returns nil if the password is the sender's, ErrPassword if not,
// or ErrStore or ErrDamaged. The first right one costs some 100 ms of CPU, later
// ones a few microseconds: a campaign opens many connections with one password.
// Wrong ones cost their full time, one at a time for each sender.
func (r *Registry) CheckPassword(ctx context.Context, sender, password string) error {
	c, err := r.credential(ctx, sender)
	if err != nil {
		return err
	}
	if r.proofs.holds(sender, c, password) {
		return nil
	}
	release, err := r.proofs.slow(ctx, sender, c)
	if err != nil {
		return err
	}
	defer release()
	if r.proofs.holds(sender, c, password) { // proved while this one waited
		return nil
	}
	hash, err := r.proofs.derive(c, password)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if !hmac.Equal(hash, c.Hash) {
		return ErrPassword
	}
	r.proofs.keep(sender, c, password)
	return nil
}

// credential returns what is stored, or one that no password meets, so that an
// unknown sender takes as long as a known one.
func (r *Registry) credential(ctx context.Context, sender string) (credential, error) {
	records, err := r.opts.Store.Records(ctx, string(credentials), sender)
	if err != nil {
		return credential{}, joinStore(err)
	}
	if len(records) == 0 {
		return credential{Salt: make([]byte, 16), Rounds: r.rounds}, nil
	}
	var c credential
	if err := json.Unmarshal(records[0].Value, &c); err != nil || len(c.Hash) != sha256.Size || c.Rounds < 1 {
		return credential{}, fmt.Errorf("%w: %s", ErrDamaged, credentials)
	}
	return c, nil
}

// proofs remembers, for each sender, the last password that was right: only as
// an HMAC under a key of this process, bound to the stored hash, so that a
// changed password is forgotten by itself.
type proofs struct {
	key []byte

	mu    *sync.Mutex
	costs int                      // how often a hash was derived
	kept  map[string][]byte        // by sender
	turns map[string]chan struct{} // by sender: full while one is deriving
}

func newProofs() proofs {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return proofs{key: key, mu: new(sync.Mutex), kept: map[string][]byte{}, turns: map[string]chan struct{}{}}
}

func (p *proofs) mac(c credential, password string) []byte {
	h := hmac.New(sha256.New, p.key)
	h.Write(c.Hash)
	h.Write([]byte(password))
	return h.Sum(nil)
}

// derive is the costly part, counted.
func (p *proofs) derive(c credential, password string) ([]byte, error) {
	p.mu.Lock()
	p.costs++
	p.mu.Unlock()
	return c.derive(password)
}

func (p *proofs) holds(sender string, c credential, password string) bool {
	p.mu.Lock()
	kept := p.kept[sender]
	p.mu.Unlock()
	return kept != nil && len(c.Hash) > 0 && hmac.Equal(kept, p.mac(c, password))
}

func (p *proofs) keep(sender string, c credential, password string) {
	mac := p.mac(c, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept[sender] = mac
}

// slow waits for the sender's turn to derive; those without a password share one.
func (p *proofs) slow(ctx context.Context, sender string, c credential) (release func(), err error) {
	if len(c.Hash) == 0 {
		sender = ""
	}
	p.mu.Lock()
	turn := p.turns[sender]
	if turn == nil {
		turn = make(chan struct{}, 1)
		p.turns[sender] = turn
	}
	p.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
