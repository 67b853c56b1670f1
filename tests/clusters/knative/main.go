// Knative reads a build.knative.dev/v1alpha1 Build as its webhook does: strictly, and then validated.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	build "github.com/knative/build/pkg/apis/build/v1alpha1"
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
	var object build.Build
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		return err
	}
	if object.APIVersion != build.SchemeGroupVersion.String() || object.Kind != "Build" {
		return fmt.Errorf("%s %s is not known", object.APIVersion, object.Kind)
	}
	// A nil *FieldError in an error would not be nil.
	if err := object.Validate(context.Background()); err != nil {
		return err
	}
	return nil
}
