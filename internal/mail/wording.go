package mail

import (
	"strconv"
	"strings"
	"time"
)

// wording is one language of the gateway's own mail, at the reading level of
// sixth grade. Words in braces stand for what is filled in.
type wording struct {
	language string

	noticeSubject, noticeHeading, noticeButton, noticeUntil, noticeWhy string
	codeSubject, codeHeading, codeMinutes, codeNever                   string
	doubt, doubtNoPhone                                                string

	day func(time.Time) string
}

var english = wording{
	language:      "en",
	noticeSubject: "A message from {practice} is waiting for you",
	noticeHeading: "You have a message from {practice}",
	noticeButton:  "Read the message",
	noticeUntil:   "You can read it until {day}.",
	noticeWhy:     "We keep it on a secure page because e-mail is not always private. You need no account: we will send a code to this address.",
	codeSubject:   "is your code for {practice}",
	codeHeading:   "Your code",
	codeMinutes:   "Enter it on the page you have open. It is good for {minutes} minutes and works once.",
	codeNever:     "We will never ask you for this code by phone. If you did not ask for it, you can ignore this e-mail.",
	doubt:         "Questions, or not sure this is real? Call {practice} at {phone}.",
	doubtNoPhone:  "Questions, or not sure this is real? Call {practice} at the number you know.",
	day:           func(t time.Time) string { return t.UTC().Format("January 2, 2006") },
}

var spanish = wording{
	language:      "es",
	noticeSubject: "Tiene un mensaje de {practice}",
	noticeHeading: "Tiene un mensaje de {practice}",
	noticeButton:  "Leer el mensaje",
	noticeUntil:   "Puede leerlo hasta el {day}.",
	noticeWhy:     "Lo guardamos en una página segura porque el correo electrónico no siempre es privado. No necesita una cuenta: enviaremos un código a esta dirección.",
	codeSubject:   "es su código para {practice}",
	codeHeading:   "Su código",
	codeMinutes:   "Escríbalo en la página que tiene abierta. Sirve durante {minutes} minutos y una sola vez.",
	codeNever:     "Nunca le pediremos este código por teléfono. Si usted no lo pidió, puede ignorar este correo.",
	doubt:         "¿Tiene preguntas o duda de que este mensaje sea real? Llame a {practice} al {phone}.",
	doubtNoPhone:  "¿Tiene preguntas o duda de que este mensaje sea real? Llame a {practice} al número que ya conoce.",
	day:           spanishDay,
}

var spanishMonths = [...]string{"enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto",
	"septiembre", "octubre", "noviembre", "diciembre"}

func spanishDay(t time.Time) string {
	year, month, day := t.UTC().Date()
	return decimal(day) + " de " + spanishMonths[month-1] + " de " + decimal(year)
}

// wordsFor returns the language of a BCP 47 tag.
func wordsFor(tag string) *wording {
	primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
	if primary == "es" {
		return &spanish
	}
	return &english
}

// fill puts values in the places of words: pairs of a word in braces and its value.
func fill(text string, pairs ...string) string {
	return oneLine(strings.NewReplacer(pairs...).Replace(text))
}

func decimal(n int) string { return strconv.Itoa(n) }
