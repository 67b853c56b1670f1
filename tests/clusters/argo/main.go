// Argo reads a Workflow strictly, as the API server does: unknown fields are errors.
package main

import (
	"fmt"
	"io"
	"os"

	argo "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"sigs.k8s.io/yaml"
)

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
	workflow := new(argo.Workflow)
	if err := yaml.UnmarshalStrict(text, workflow); err != nil {
		return err
	}
	if workflow.APIVersion != "argoproj.io/v1alpha1" || workflow.Kind != "Workflow" {
		return fmt.Errorf("%s %s is no Workflow", workflow.APIVersion, workflow.Kind)
	}
	return nil
}
