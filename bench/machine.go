package main

import (
	"os"
	"runtime"
	"strings"
	"time"
)

// machine is where and when something was measured.
type machine struct {
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"` // that the process may use
	Go         string    `json:"go"`
	NATS       string    `json:"nats"`
	Postgres   string    `json:"postgres"`
	Redis      string    `json:"redis"`
	Ratelimit  string    `json:"ratelimit"`
	Date       time.Time `json:"date"`
	LoadBefore string    `json:"load_before,omitempty"` // averages over 1, 5 and 15 minutes
	LoadAfter  string    `json:"load_after,omitempty"`
}

func describe() machine {
	return machine{CPU: cpu(), Cores: runtime.GOMAXPROCS(0), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Date: time.Now().UTC().Truncate(time.Second), LoadBefore: load()}
}

// cpu names the processor's model where the system tells it as Linux does.
func cpu() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// load returns the load averages, or nothing where the system does not tell
// them as Linux does.
func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}
