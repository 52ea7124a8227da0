package extract

import "sort"

// move says that text from byte Out on stands at byte Src of its source, up to
// the next move.
type move struct{ out, src uint32 }

func source(moves []move, at int) int {
	i := sort.Search(len(moves), func(i int) bool { return int(moves[i].out) > at })
	if i == 0 {
		return at
	}
	m := moves[i-1]
	src := int(m.src) + at - int(m.out)
	if i < len(moves) {
		src = min(src, int(moves[i].src)) // inserted text has no length in the source
	}
	return src
}

// mapped collects text together with the place each byte came from.
type mapped struct {
	buf   []byte
	moves []move
	delta int // source minus output of the last move
}

func (m *mapped) move(src int) {
	if d := src - len(m.buf); d != m.delta || len(m.moves) == 0 && d != 0 {
		m.delta = d
		if n := len(m.moves); n > 0 && int(m.moves[n-1].out) == len(m.buf) {
			m.moves[n-1].src = uint32(src)
			return
		}
		m.moves = append(m.moves, move{uint32(len(m.buf)), uint32(src)})
	}
}

func (m *mapped) write(s []byte, src int) {
	m.move(src)
	m.buf = append(m.buf, s...)
}

func (m *mapped) writeString(s string, src int) {
	m.move(src)
	m.buf = append(m.buf, s...)
}

func (m *mapped) writeByte(c byte, src int) {
	m.move(src)
	m.buf = append(m.buf, c)
}

// compose returns the moves of a text that was mapped twice.
func compose(inner, outer []move) []move {
	if len(inner) == 0 {
		return outer
	}
	out := make([]move, 0, len(inner)+len(outer))
	i := 0
	for k, o := range outer {
		end := uint32(1<<32 - 1)
		if k+1 < len(outer) {
			end = o.src + outer[k+1].out - o.out
		}
		out = append(out, move{o.out, uint32(source(inner, int(o.src)))})
		for i < len(inner) && inner[i].out <= o.src {
			i++
		}
		for ; i < len(inner) && inner[i].out < end; i++ {
			out = append(out, move{o.out + inner[i].out - o.src, inner[i].src})
		}
	}
	return out
}
