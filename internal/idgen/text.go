package idgen

import (
	"fmt"
	"strconv"
)

// form is the text form: letters and hyphen stand for themselves, a zero for
// any digit.
const form = "AO0000000000-000000000"

// String returns the text form, and of a number that is no id its digits.
func (id ID) String() string {
	text, err := id.AppendText(make([]byte, 0, len(form)))
	if err != nil {
		return strconv.FormatInt(int64(id), 10)
	}
	return string(text)
}

// AppendText appends the text form. It fails on a number that is no id.
func (id ID) AppendText(dst []byte) ([]byte, error) {
	if id < 0 {
		return dst, fmt.Errorf("id %d: want a number above zero", int64(id))
	}
	year, day, second := id.moment()
	if err := check(year, day, second); err != nil {
		return dst, fmt.Errorf("id %d: %w", int64(id), err)
	}
	dst = append(dst, "AO"...)
	dst = appendDigits(dst, day, 3)
	dst = appendDigits(dst, year, 2)
	dst = appendDigits(dst, second, 5)
	dst = append(dst, '-')
	return appendDigits(dst, int64(id%secondsAt), 9), nil
}

// MarshalText returns the text form, so that JSON holds a string: readers that
// keep numbers as floats would round the last digits of a number.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(make([]byte, 0, len(form))) }

// UnmarshalText is Parse.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Parse reads the text form and nothing else: what it accepts, String gives
// back byte for byte.
func Parse(text string) (ID, error) {
	if !formed(text) {
		return 0, fmt.Errorf("id: want the form AO3272652345-000042017, found %.*q", 2*len(form), text)
	}
	day, year, second, rest := number(text[2:5]), number(text[5:7]), number(text[7:12]), number(text[13:])
	if err := check(year, day, second); err != nil {
		return 0, fmt.Errorf("id %q: %w", text, err)
	}
	return ID(year*yearsAt + day*daysAt + second*secondsAt + rest), nil
}

func formed(text string) bool {
	if len(text) != len(form) {
		return false
	}
	for i := range len(form) {
		if c := text[i]; c != form[i] && (form[i] != '0' || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// check tells which part of an id is out of its range; the others cannot be.
func check(year, day, second int64) error {
	yearDays := int64(365)
	if year%4 == 0 {
		yearDays = 366
	}
	switch {
	case year > lastYear-firstYear:
		return fmt.Errorf("want a year from 00 to %d, found %02d", lastYear-firstYear, year)
	case day < 1 || day > yearDays:
		return fmt.Errorf("want a day from 001 to %d in %d, found %03d", yearDays, firstYear+year, day)
	case second >= daySeconds:
		return fmt.Errorf("want a second from 00000 to %d, found %05d", daySeconds-1, second)
	}
	return nil
}

// number reads digits.
func number(digits string) int64 {
	var n int64
	for i := range len(digits) {
		n = n*10 + int64(digits[i]-'0')
	}
	return n
}

// appendDigits appends the lowest digits of n, as many as width, at most 9.
func appendDigits(dst []byte, n int64, width int) []byte {
	var digits [9]byte
	for i := width - 1; i >= 0; i-- {
		digits[i] = byte('0' + n%10)
		n /= 10
	}
	return append(dst, digits[:width]...)
}
