package backtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
)

const data = "../../../shared/data/"

// What an independent program computed over a real log.
func TestExpected(t *testing.T) {
	text, err := os.ReadFile(data + "expected.json")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the shared data is not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	var expected struct {
		Log   string
		Lines int64
		Cases []struct {
			Limit         int64
			Window        int64 `json:"window_s"`
			Key           string
			ExemptMethods []string `json:"exempt_methods"`
			Allowed       int64
			Denied        int64
			Exempt        int64
			MostDenied    []struct {
				IP     string
				Denied int64
			} `json:"most_denied"`
		}
	}
	if err := json.Unmarshal(text, &expected); err != nil {
		t.Fatal(err)
	}
	if len(expected.Cases) == 0 {
		t.Fatal("no cases")
	}
	log, err := os.ReadFile(data + expected.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range expected.Cases {
		t.Run(fmt.Sprintf("%d per %ds", c.Limit, c.Window), func(t *testing.T) {
			exempt, err := json.Marshal(c.ExemptMethods)
			if err != nil {
				t.Fatal(err)
			}
			rule := fmt.Sprintf("{ name: r, limit: %d per %ds, key: [%s], exempt: { methods: %s } }", c.Limit, c.Window, c.Key, exempt)
			got := run(t, parse(t, rule), len(c.MostDenied), string(log))
			if got.Requests != expected.Lines || got.BadLines != 0 || got.Admitted != c.Allowed || got.Denied != c.Denied || got.Exempt != c.Exempt {
				t.Errorf("got %+v, want %+v", got, c)
			}
			r := got.Rules[0]
			if r.Admitted != c.Allowed || r.Denied != c.Denied {
				t.Errorf("rule: got %+v, want %+v", r, c)
			}
			for i, want := range c.MostDenied {
				if k := r.Top[i]; k.Key != want.IP || k.Denied != want.Denied {
					t.Errorf("key %d: got %+v, want %+v", i, k, want)
				}
			}
		})
	}
}
