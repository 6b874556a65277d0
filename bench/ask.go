package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weirhq/weir/gateway"
)

// connection is a way to ask a service whether a user of a tenant may pass.
type connection interface {
	may(ctx context.Context, tenant, user string) (bool, error)
}

// passing asks by a connection about users none of whom is denied.
func passing(by connection) asker {
	names := userNames(users)
	return func(ctx context.Context, n int64) error {
		may, err := by.may(ctx, tenant, names[n%users])
		if err == nil && !may {
			err = errors.New("denied, far below the limit")
		}
		return err
	}
}

// refused asks by a connection about users all of whom are denied.
func refused(by connection) asker {
	names := userNames(deniedUsers)
	return func(ctx context.Context, n int64) error {
		may, err := by.may(ctx, deniedTenant, names[n%deniedUsers])
		if err == nil && may {
			err = errors.New("allowed, far beyond the limit")
		}
		return err
	}
}

func userNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("u", i)
	}
	return names
}

// bySDK asks with the gateway's client.
type bySDK struct{ client *gateway.Client }

func (c bySDK) may(ctx context.Context, tenant, user string) (bool, error) {
	d, err := c.client.Check(ctx, gateway.Request{Tenant: tenant, User: user})
	if err == nil && d.Rule == "" {
		err = fmt.Errorf("not decided by a rule: %s", d.Reason)
	}
	return d.Verdict == gateway.Allow, err
}

// overHTTP asks over connections that are kept.
type overHTTP struct {
	client http.Client
	url    string
}

func dialHTTP(addr string) *overHTTP {
	return &overHTTP{http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}}, "http://" + addr + "/v1/check"}
}

func (c *overHTTP) close() error {
	c.client.CloseIdleConnections()
	return nil
}

func (c *overHTTP) may(ctx context.Context, tenant, user string) (bool, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(`{"tenant":"`+tenant+`","user":"`+user+`"}`))
	if err != nil {
		return false, err
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close() //nolint:errcheck // it is read to its end
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return false, err
	}
	if answer.Header.Get("X-Ratelimit-Limit") == "" {
		return false, fmt.Errorf("not decided by a rule: %s", answer.Status)
	}
	return answer.StatusCode == http.StatusOK, nil
}

// overGRPC asks a rate limit service of Envoy's protocol, over as many
// connections as there are cores: an Envoy has one for each of its threads.
type overGRPC struct {
	connections []*grpc.ClientConn
	services    []rls.RateLimitServiceClient // one for each connection, which take turns
	turn        atomic.Int64
}

func dialGRPC(addr string) (*overGRPC, error) {
	c := &overGRPC{}
	for range runtime.GOMAXPROCS(0) {
		cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.connections, c.services = append(c.connections, cc), append(c.services, rls.NewRateLimitServiceClient(cc))
	}
	return c, nil
}

func (c *overGRPC) close() error {
	var faults []error
	for _, cc := range c.connections {
		faults = append(faults, cc.Close())
	}
	return errors.Join(faults...)
}

// ready waits until every connection is there.
func (c *overGRPC) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for range c.services {
		if _, err := c.ask(ctx, tenant, "nobody", grpc.WaitForReady(true)); err != nil {
			return err
		}
	}
	return nil
}

func (c *overGRPC) ask(ctx context.Context, tenant, user string, how ...grpc.CallOption) (bool, error) {
	service := c.services[c.turn.Add(1)%int64(len(c.services))]
	answer, err := service.ShouldRateLimit(ctx, &rls.RateLimitRequest{
		Domain:      tenant,
		Descriptors: []*common.RateLimitDescriptor{{Entries: []*common.RateLimitDescriptor_Entry{{Key: "user", Value: user}}}},
	}, how...)
	if err != nil {
		return false, err
	}
	if answer.Statuses[0].CurrentLimit == nil {
		return false, fmt.Errorf("not decided by a rule: %v", answer)
	}
	return answer.OverallCode == rls.RateLimitResponse_OK, nil
}

func (c *overGRPC) may(ctx context.Context, tenant, user string) (bool, error) {
	return c.ask(ctx, tenant, user)
}
