package kubelet

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/labk/labk/pkg/config"
)

// parseTaints reads KEY=VALUE:EFFECT or KEY:EFFECT, as kubectl writes them.
func parseTaints(list []string) ([]v1.Taint, error) {
	var out []v1.Taint
	for _, text := range list {
		kv, effect, ok := strings.Cut(text, ":")
		key, value, _ := strings.Cut(kv, "=")
		e := v1.TaintEffect(effect)
		if !ok || key == "" || (e != v1.TaintEffectNoSchedule && e != v1.TaintEffectPreferNoSchedule && e != v1.TaintEffectNoExecute) {
			return nil, &config.Error{Option: "node-taint", Problem: fmt.Sprintf("%q is no taint", text),
				Remedy: "write it as KEY=VALUE:EFFECT with the effect NoSchedule, PreferNoSchedule or NoExecute"}
		}
		out = append(out, v1.Taint{Key: key, Value: value, Effect: e})
	}
	return out, nil
}
