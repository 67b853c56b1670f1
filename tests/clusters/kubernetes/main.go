// Kubernetes reads an object as an API server and Tekton's webhook do: strictly, and Tekton's own
// kinds are then defaulted and validated.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	tekton "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/pkg/apis"
	"sigs.k8s.io/yaml"
)

// validated is what Tekton's kinds have.
type validated interface {
	meta.Object
	apis.Defaultable
	apis.Validatable
}

var kinds = map[string]func() any{
	"v1 Pod":                    func() any { return new(core.Pod) },
	"batch/v1 Job":              func() any { return new(batch.Job) },
	"tekton.dev/v1 Task":        func() any { return new(tekton.Task) },
	"tekton.dev/v1 TaskRun":     func() any { return new(tekton.TaskRun) },
	"tekton.dev/v1 Pipeline":    func() any { return new(tekton.Pipeline) },
	"tekton.dev/v1 PipelineRun": func() any { return new(tekton.PipelineRun) },
}

func main() {
	if err := check(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(input io.Reader) error {
	text, err := io.ReadAll(input)
	if err != nil {
		return err
	}
	var of meta.TypeMeta
	if err := yaml.Unmarshal(text, &of); err != nil {
		return err
	}
	name := of.APIVersion + " " + of.Kind
	kind, found := kinds[name]
	if !found {
		return fmt.Errorf("%s is not known", name)
	}
	object := kind()
	if err := yaml.UnmarshalStrict(text, object); err != nil {
		return err
	}
	if object, ok := object.(validated); ok {
		// An API server has made a name of it before it asks Tekton.
		if object.GetName() == "" && object.GetGenerateName() != "" {
			object.SetName(object.GetGenerateName() + "x")
		}
		object.SetDefaults(context.Background())
		// A nil *FieldError in an error would not be nil.
		if err := object.Validate(context.Background()); err != nil {
			return err
		}
	}
	return nil
}
