package limiter

import (
	"fmt"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/window"
)

// windowsField is where the reports stream says where windows are kept.
const windowsField = "weir-windows"

// windowsPlace names where this limiter keeps windows.
func (c *Config) windowsPlace() string {
	if c.Windows == nil {
		return "memory"
	}
	return "redis"
}

// ElsewhereError says that the limiters of a system keep the windows in another
// place than this one would. Were a shard to go from one to the other, its keys
// would have all of their limits again.
type ElsewhereError struct{ Has, Told string }

func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("windows: want them in %s, where this system's limiters keep them, found %s (with and without --redis is not the same; "+
		"to move them stop all limiters and start these with --move-windows)", e.Has, e.Told)
}

// OpenWindows opens windows on Redis for Config.Windows, see
// window.RedisConfig.URL; the caller closes them. It does not connect yet.
func OpenWindows(url string, names events.Names) (*window.Redis, error) {
	config := window.DefaultRedisConfig()
	config.URL, config.Prefix = url, names.Prefix+":"
	// A request may find one block waiting for a server that hangs before its
	// own does: with both it has its rules' on_error within 50 ms.
	config.Timeout = 25 * time.Millisecond
	windows, err := window.OpenRedis(config)
	if err != nil {
		return nil, fmt.Errorf("--redis: %w", err)
	}
	return windows, nil
}
