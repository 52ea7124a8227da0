package phi

import "strings"

// Checks of numbers whose issuer gave them a rule. Each takes the bare
// characters, separators removed.

// validSSN applies the SSA's rules: no area 000, 666 or 9xx, no group 00, no
// serial 0000, none of the numbers published in advertisements.
func validSSN(d string) bool {
	switch {
	case len(d) != 9, d[:3] == "000", d[:3] == "666", d[0] == '9', d[3:5] == "00", d[5:] == "0000":
		return false
	case d == "078051120", d == "219099999", d == "123456789", strings.Count(d, d[:1]) == 9:
		return false
	}
	return true
}

// validITIN applies the IRS's ranges of the fourth and fifth digits.
func validITIN(d string) bool {
	if len(d) != 9 || d[0] != '9' {
		return false
	}
	switch g := int(d[3]-'0')*10 + int(d[4]-'0'); {
	case g >= 50 && g <= 65, g >= 70 && g <= 88, g >= 90 && g <= 92, g >= 94 && g <= 99:
		return true
	}
	return false
}

// luhn checks ISO/IEC 7812-1 Annex B, with sum already carried in.
func luhn(d string, sum int) bool {
	for i := 0; i < len(d); i++ {
		n := int(d[len(d)-1-i] - '0')
		if i%2 == 1 {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
	}
	return sum%10 == 0
}

// validNPI is Luhn over 80840 and the number (45 CFR 162.406): the prefix adds 24.
func validNPI(d string) bool {
	return len(d) == 10 && (d[0] == '1' || d[0] == '2') && luhn(d, 24)
}

// validCard knows the prefixes and lengths of the large schemes; the numbers
// that processors publish for tests do not count.
func validCard(d string) bool {
	ok := false
	switch {
	case d[0] == '4':
		ok = len(d) == 16 || len(d) == 13 || len(d) == 19
	case d[:2] >= "51" && d[:2] <= "55", d[:4] >= "2221" && d[:4] <= "2720":
		ok = len(d) == 16
	case d[:2] == "34", d[:2] == "37":
		ok = len(d) == 15
	case d[:4] == "6011", d[:2] == "65", d[:3] >= "644" && d[:3] <= "649", d[:2] == "35", d[:2] == "62", d[:2] == "50", d[:2] == "63", d[:2] == "67":
		ok = len(d) >= 12 && len(d) <= 19
	case d[:4] == "1800", d[:4] == "2131":
		ok = len(d) == 15
	case d[:2] == "36", d[:2] == "38", d[:2] == "39", d[:2] == "30":
		ok = len(d) == 14 || len(d) == 16
	}
	switch d {
	case "4111111111111111", "4242424242424242", "5555555555554444", "378282246310005", "6011111111111117":
		return false
	}
	return ok && luhn(d, 0)
}

// validABA checks a bank routing number: prefix and weights 3, 7, 1.
func validABA(d string) bool {
	if len(d) != 9 {
		return false
	}
	switch p := int(d[0]-'0')*10 + int(d[1]-'0'); {
	case p <= 12, p >= 21 && p <= 32, p >= 61 && p <= 72, p == 80:
	default:
		return false
	}
	n := func(i int) int { return int(d[i] - '0') }
	return (3*(n(0)+n(3)+n(6))+7*(n(1)+n(4)+n(7))+n(2)+n(5)+n(8))%10 == 0
}

// validDEA checks a prescriber's number (21 CFR 1301): two letters, six digits
// and a check digit.
func validDEA(s string) bool {
	if len(s) != 9 || !strings.ContainsRune("ABCDEFGHJKLMPRSTUX", rune(s[0])) || class[s[1]] != classUpper && s[1] != '9' {
		return false
	}
	n := func(i int) int { return int(s[i] - '0') }
	for i := 2; i < 9; i++ {
		if class[s[i]] != classDigit {
			return false
		}
	}
	return (n(2)+n(4)+n(6)+2*(n(3)+n(5)+n(7)))%10 == n(8)
}

// validMBI checks the format that CMS published for Medicare Beneficiary
// Identifiers: eleven characters, letters without S, L, O, I, B, Z.
func validMBI(s string) bool {
	if len(s) != 11 || s[0] == '0' {
		return false
	}
	const pattern = "9AX9AX9AA99" // 9 digit, A letter, X either
	for i := 0; i < 11; i++ {
		c := s[i]
		digit := class[c] == classDigit
		letter := class[c] == classUpper && !strings.ContainsRune("SLOIBZ", rune(c))
		switch pattern[i] {
		case '9':
			letter = false
		case 'A':
			digit = false
		}
		if !digit && !letter {
			return false
		}
	}
	return true
}

// validVIN checks ISO 3779 and the mod-11 digit of 49 CFR 565.15.
func validVIN(s string) bool {
	if len(s) != 17 {
		return false
	}
	const letters = "ABCDEFGH JKLMN P R STUVWXYZ"
	const values = "12345678 12345 7 9 23456789"
	weights := [...]int{8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2}
	sum, digitsSeen := 0, 0
	for i := 0; i < 17; i++ {
		v := 0
		if class[s[i]] == classDigit {
			v = int(s[i] - '0')
			digitsSeen++
		} else if k := strings.IndexByte(letters, s[i]); k >= 0 && s[i] != ' ' {
			v = int(values[k] - '0')
		} else {
			return false
		}
		sum += v * weights[i]
	}
	check := byte('0' + sum%11)
	if sum%11 == 10 {
		check = 'X'
	}
	return s[8] == check && digitsSeen > 0 && digitsSeen < 17
}

// validLOINC checks the mod-10 digit behind the dash.
func validLOINC(s string) bool {
	body, check, ok := strings.Cut(s, "-")
	if !ok || len(body) < 1 || len(body) > 5 || len(check) != 1 {
		return false
	}
	return luhn(body+check, 0)
}

var (
	verhoeffD = [10]string{"0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432", "7659821043", "8765932104", "9876543210"}
	verhoeffP = [8]string{"0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258"}
)

// validSNOMED checks an SCTID: 6 to 18 digits that end in a Verhoeff digit.
func validSNOMED(d string) bool {
	if len(d) < 6 || len(d) > 18 {
		return false
	}
	c := byte('0')
	for i := 0; i < len(d); i++ {
		p := verhoeffP[i%8][d[len(d)-1-i]-'0']
		c = verhoeffD[c-'0'][p-'0']
	}
	return c == '0'
}
