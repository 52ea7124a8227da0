package lexicon

// FNV-1a, 64 bits: cheap byte by byte, so that the tokeniser hashes as it goes.
const (
	Offset uint64 = 14695981039346656037 // hash of the empty word
	Prime  uint64 = 1099511628211
)

// Hash returns the hash of a word in lower case.
func Hash(word []byte) uint64 {
	h := Offset
	for _, c := range word {
		h = (h ^ uint64(c)) * Prime
	}
	return h
}

// Stem returns the hash of a word without its plural ending; both lexicon and
// text are stemmed, so any rule will do that brings plurals together.
func Stem(word []byte) uint64 {
	n := len(word)
	if n <= 3 || word[n-1] != 's' {
		return Hash(word)
	}
	switch word[n-2] {
	case 's', 'u', 'i':
		return Hash(word)
	case 'e':
		if word[n-3] == 'i' && n > 4 {
			return (Hash(word[:n-3]) ^ 'y') * Prime
		}
	}
	return Hash(word[:n-1])
}

// words maps word hashes to a few flag bits: open addressing, 29 bits of the
// hash as check. A false hit takes 2^-29 per probe.
type words struct {
	slots []uint32
	shift uint
}

func newWords(bits uint) words { return words{make([]uint32, 1<<bits), 64 - bits} }

func (w *words) add(h uint64, flags uint32) {
	mask := uint64(len(w.slots) - 1)
	check := uint32(h) &^ 7
	for i := mix(h) >> w.shift; ; i = (i + 1) & mask {
		switch s := w.slots[i]; {
		case s == 0:
			w.slots[i] = check | flags
			return
		case s&^7 == check:
			w.slots[i] |= flags
			return
		}
	}
}

func (w *words) get(h uint64) uint32 {
	mask := uint64(len(w.slots) - 1)
	check := uint32(h) &^ 7
	for i := mix(h) >> w.shift; ; i = (i + 1) & mask {
		switch s := w.slots[i]; {
		case s == 0:
			return 0
		case s&^7 == check:
			return s & 7
		}
	}
}

// mix spreads a hash, so that a table index and a check share no bits.
func mix(h uint64) uint64 {
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

// trie holds phrases as chains of word hashes in one table: the key of a node
// is the hash of all its words. A slot is a 32-bit check, and the number of the
// term that ends here plus a bit that says whether longer phrases go on.
type trie struct {
	check []uint32
	value []uint32
	start []uint64 // bit set over the first words
	shift uint
}

const (
	goesOn = 1 << 31
	ends   = 1 << 30
)

func newTrie(bits uint) trie {
	return trie{make([]uint32, 1<<bits), make([]uint32, 1<<bits), make([]uint64, 1<<10), 64 - bits}
}

func chain(state, word uint64) uint64 { return mix(state*Prime ^ word) }

// find returns the slot of a key, or the free one where it belongs.
func (t *trie) find(key uint64) uint64 {
	mask := uint64(len(t.check) - 1)
	check := uint32(key) | 1
	i := key >> t.shift
	for t.check[i] != 0 && t.check[i] != check {
		i = (i + 1) & mask
	}
	return i
}

func (t *trie) put(key uint64, bits uint32) {
	i := t.find(key)
	t.check[i] = uint32(key) | 1
	if bits&ends != 0 {
		t.value[i] &= goesOn
	}
	t.value[i] |= bits
}

func (t *trie) add(phrase string, term uint32) {
	var state uint64
	hashes := phraseWords(phrase)
	for i, h := range hashes {
		if i == 0 {
			t.start[h>>48&1023] |= 1 << (h >> 58)
		}
		state = chain(state, h)
		if i == len(hashes)-1 {
			t.put(state, ends|term)
		} else {
			t.put(state, goesOn)
		}
	}
}

func (t *trie) first(word uint64) bool { return t.start[word>>48&1023]&(1<<(word>>58)) != 0 }

func (t *trie) step(state, word uint64) (next uint64, term int, on bool) {
	next = chain(state, word)
	i := t.find(next)
	if t.check[i] == 0 {
		return 0, 0, false
	}
	v := t.value[i]
	if v&ends != 0 {
		term = int(v &^ (goesOn | ends))
	}
	return next, term, v&goesOn != 0
}

// get returns the term number at key, 0 if none.
func (t *trie) get(key uint64) uint32 {
	if v := t.value[t.find(key)]; v&ends != 0 {
		return v &^ (goesOn | ends)
	}
	return 0
}

func phraseKey(phrase string) (key uint64, ok bool) {
	for _, h := range phraseWords(phrase) {
		key = chain(key, h)
		ok = true
	}
	return key, ok
}

// phraseWords splits a phrase the way the scanner splits text: runs of letters
// and digits; an apostrophe inside a word is dropped, with a possessive s.
func phraseWords(phrase string) []uint64 {
	var hashes []uint64
	var word []byte
	flush := func() {
		if len(word) > 0 {
			hashes = append(hashes, Stem(word))
			word = word[:0]
		}
	}
	for i := 0; i < len(phrase); i++ {
		c := phrase[i]
		switch {
		case c >= 'A' && c <= 'Z':
			word = append(word, c|0x20)
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 0x80:
			word = append(word, c)
		case c == '\'' && len(word) > 0 && i+1 < len(phrase):
			if phrase[i+1]|0x20 == 's' && (i+2 == len(phrase) || phrase[i+2] == ' ') {
				flush()
				i++
			}
		default:
			flush()
		}
	}
	flush()
	return hashes
}
