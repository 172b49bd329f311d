package handout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/digest"
)

// Offer is what a server hands out.
type Offer struct {
	// Server is its URL, as other PCs reach it.
	Server string
	// ScriptSum and ProgramSum are SHA-256, in hexadecimal.
	ScriptSum, ProgramSum string
}

// Ask asks the server of the client, an administrator's, what it hands out. The client knows the server by its certificate, so the sums are true.
func Ask(ctx context.Context, client kubernetes.Interface) (Offer, error) {
	o, err := ask(ctx, client)
	if err != nil {
		return Offer{}, fmt.Errorf("ask the server for its program: %w", err)
	}
	return o, nil
}

func ask(ctx context.Context, client kubernetes.Interface) (o Offer, err error) {
	// Where the API server says that nodes and pods reach it.
	slice, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return o, err
	}
	if len(slice.Endpoints) == 0 || len(slice.Endpoints[0].Addresses) == 0 || len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return o, errors.New("it does not tell its address yet: try again in a moment")
	}
	o.Server = "https://" + net.JoinHostPort(slice.Endpoints[0].Addresses[0], strconv.Itoa(int(*slice.Ports[0].Port)))
	get := func(path string) ([]byte, error) {
		return client.Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Raw()
	}
	script, err := get(Script)
	if err != nil {
		return o, err
	}
	o.ScriptSum = digest.Of(script)
	sum, err := get(Sum)
	if err != nil {
		return o, err
	}
	o.ProgramSum, _, _ = strings.Cut(string(sum), " ")
	if raw, err := hex.DecodeString(o.ProgramSum); err != nil || len(raw) != sha256.Size {
		return o, fmt.Errorf("%q is no SHA-256", o.ProgramSum)
	}
	return o, nil
}

// Line is what a person pastes into a shell (sh, bash, zsh) on another PC, as root or as somebody who may use sudo: it takes the script from the server, whose certificate that PC does not know yet, and runs it
// only if its sum is right; the script does the same with the program. The token is an argument of nothing but the shell's own echo, so that no other user of the PC sees it. The commands have only such options as
// busybox has, too.
func (o Offer) Line(token string) string {
	return fmt.Sprintf(`(u=%s%[2]s; f=$(mktemp) && trap 'rm -f "$f"' EXIT && if command -v curl >/dev/null; then curl -kfsSo "$f" $u; else wget --no-check-certificate -qO "$f" $u; fi && `+
		`if [ "$(sha256sum <"$f" | cut -d ' ' -f 1)" = %s ]; then echo %s | LABK_TOKEN=- LABK_URL=%[1]s LABK_SHA256=%[5]s sh "$f"; else echo "$u has another SHA-256: print a new line" >&2; false; fi)`,
		o.Server, Script, o.ScriptSum, token, o.ProgramSum)
}
