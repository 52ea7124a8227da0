package phi

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

const newsLine = "Our spring newsletter is here, with recipes, a walking group and news from the clinic. If you have asthma, ask your doctor about the season. Join us on Saturday for free blood pressure checks. "

func newsletter(size int) []byte {
	var b strings.Builder
	b.WriteString("From: Valley Clinic <news@valleyclinic.example>\r\nTo: ann@mail.example\r\nSubject: Spring news\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><body><table width=\"640\" style=\"border:0\">")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "<tr><td style=\"padding:24px;font-family:Arial\"><p class=\"text\"><a href=\"https://valleyclinic.example/a/%d?utm_source=mail\">Read</a> %s</p></td></tr>\r\n", i, newsLine)
	}
	b.WriteString("</table></body></html>")
	return []byte(b.String())
}

func BenchmarkHTML(b *testing.B) {
	for _, size := range []int{10 << 10, 20 << 10} {
		b.Run(fmt.Sprint(size>>10, "KB"), func(b *testing.B) {
			s, raw := scanner(b), newsletter(size)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				s.Read(context.Background(), raw).Judge(Context{Recipient: "ann@mail.example"})
			}
		})
	}
}

func BenchmarkPlain(b *testing.B) {
	s := scanner(b)
	raw := []byte("From: a@b.example\nTo: ann@mail.example\nSubject: x\n\n" + strings.Repeat(newsLine+"\n", 40))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		s.Read(context.Background(), raw)
	}
}

func BenchmarkJudge(b *testing.B) {
	d := scanner(b).Read(context.Background(), newsletter(20<<10))
	b.ReportAllocs()
	for b.Loop() {
		d.Judge(Context{Recipient: "ann@mail.example", Segment: "newsletter"})
	}
}
