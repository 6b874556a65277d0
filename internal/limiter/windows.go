package limiter

import (
	"fmt"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/window"
)

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
