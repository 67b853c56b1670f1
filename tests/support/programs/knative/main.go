// Knative prints the Pod that Knative Build's controller makes of the Build that it reads, as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	build "github.com/knative/build/pkg/apis/build/v1alpha1"
	"github.com/knative/build/pkg/reconciler/build/resources" // it declares -creds-image, -nop-image
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func main() {
	flag.Parse()
	if err := convert(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func convert(input io.Reader, output io.Writer) error {
	var object build.Build
	if err := json.NewDecoder(input).Decode(&object); err != nil {
		return err
	}
	object.Namespace = "default"
	object.Status.Cluster = &build.ClusterSpec{PodName: object.Name + "-pod"}
	account := &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "default", Namespace: "default"}}
	pod, err := resources.MakePod(&object, fake.NewSimpleClientset(account))
	if err != nil {
		return err
	}
	return json.NewEncoder(output).Encode(pod)
}
