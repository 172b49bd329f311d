package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/labk/labk/pkg/lab"
)

const (
	loadClients = 16   // each with a connection of its own, as 16 PCs have
	loadObjects = 1000 // ConfigMaps
	loadBytes   = 512  // in each
)

// clients are clients of one API that work at the same time.
type clients struct {
	callers []*caller
	folder  string // the API path of the ConfigMaps
}

// outcome is what came of many requests of one kind.
type outcome struct {
	perSecond float64
	sorted    []time.Duration
}

// share is the time in milliseconds that this part of the requests kept to.
func (o outcome) share(part float64) float64 {
	i := min(int(part*float64(len(o.sorted))), len(o.sorted)-1)
	return float64(o.sorted[i]) / float64(time.Millisecond)
}

func newClients(ctx context.Context, h *lab.Host, cfg *rest.Config, namespace string) (*clients, error) {
	all := &clients{folder: "/api/v1/namespaces/" + namespace + "/configmaps"}
	for range loadClients {
		c, err := newCaller(ctx, h, cfg)
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		all.callers = append(all.callers, c)
	}
	return all, nil
}

func (l *clients) close() error {
	var errs []error
	for _, c := range l.callers {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// each lets the clients do something count times, each as soon as it has done the last, and returns how long each time took. The first error ends it.
func (l *clients) each(ctx context.Context, count int, do func(c *caller, i int) error) (outcome, error) {
	took, errs := make([]time.Duration, count), make([]error, len(l.callers))
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for k, c := range l.callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				at := time.Now()
				if errs[k] = do(c, i); errs[k] != nil {
					next.Store(int64(count))
					return
				}
				took[i] = time.Since(at)
			}
		})
	}
	wg.Wait()
	all := time.Since(began)
	slices.SortFunc(took, cmp.Compare)
	return outcome{perSecond: float64(count) / all.Seconds(), sorted: took}, errors.Join(append(errs, context.Cause(ctx))...)
}

// configMaps are ConfigMaps with the versions that the API gave them last.
type configMaps struct {
	of   *clients
	made []v1.ConfigMap
}

func (l *clients) maps(prefix string, count int) *configMaps {
	m := &configMaps{of: l, made: make([]v1.ConfigMap, count)}
	for i := range m.made {
		m.made[i].ObjectMeta = metav1.ObjectMeta{Name: fmt.Sprintf("%s-%05d", prefix, i)}
		m.made[i].Data = map[string]string{"data": text()}
	}
	return m
}

// text is new each time, and cannot be compressed much.
func text() string {
	var b strings.Builder
	for b.Len() < loadBytes {
		b.WriteString(rand.Text())
	}
	return b.String()[:loadBytes]
}

// serializer writes and reads the typed protobuf.
func serializer() *protobuf.Serializer { return protobuf.NewSerializer(scheme.Scheme, scheme.Scheme) }

// send sends a ConfigMap and keeps what the API made of it.
func (m *configMaps) send(c *caller, method, path string, i int) error {
	m.made[i].TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	var body bytes.Buffer
	s := serializer()
	if err := s.Encode(&m.made[i], &body); err != nil {
		return err
	}
	answer, err := c.do(method, path, body.Bytes(), "")
	if err != nil {
		return err
	}
	m.made[i] = v1.ConfigMap{}
	_, _, err = s.Decode(answer, nil, &m.made[i])
	return err
}

func (m *configMaps) path(i int) string { return m.of.folder + "/" + m.made[i].Name }

func (m *configMaps) create(c *caller, i int) error {
	return m.send(c, http.MethodPost, m.of.folder, i)
}

// update replaces the data of the version that it knows.
func (m *configMaps) update(c *caller, i int) error {
	m.made[i].Data["data"] = text()
	return m.send(c, http.MethodPut, m.path(i), i)
}

func (m *configMaps) read(c *caller, i int) error {
	_, err := c.get(m.path(i % len(m.made)))
	return err
}

func (m *configMaps) delete(c *caller, i int) error {
	_, err := c.do(http.MethodDelete, m.path(i), nil, "")
	return err
}

// one is the first of the clients alone.
func (l *clients) one() *clients { return &clients{callers: l.callers[:1], folder: l.folder} }

// list lists all ConfigMaps; encoding is how the answer may be compressed.
func (c *caller) list(folder, encoding string) error {
	_, err := c.do(http.MethodGet, folder, nil, encoding)
	return err
}

// checkList checks that a list has all of the ConfigMaps.
func (m *configMaps) checkList(c *caller) error {
	answer, err := c.get(m.of.folder)
	if err != nil {
		return err
	}
	var list v1.ConfigMapList
	if _, _, err := serializer().Decode(answer, nil, &list); err != nil {
		return err
	}
	got := map[string]string{}
	for _, item := range list.Items {
		got[item.Name] = item.ResourceVersion
	}
	for _, made := range m.made {
		if got[made.Name] != made.ResourceVersion {
			return fmt.Errorf("list: %s has version %q, should have %q", made.Name, got[made.Name], made.ResourceVersion)
		}
	}
	return nil
}
