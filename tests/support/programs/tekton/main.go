// Tekton runs Tekton's own controllers upon an API server in memory.
//
// It reads one object a line, as JSON: Tasks, Pipelines and runs, which it creates, and Pods, whose
// status a kubelet tells. It prints one object a line: each Pod that a controller creates, and each
// run that the input named, once it is done.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/tektoncd/pipeline/pkg/apis/config"
	"github.com/tektoncd/pipeline/pkg/apis/pipeline"
	tekton "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	"github.com/tektoncd/pipeline/pkg/client/clientset/versioned"
	pipelineclient "github.com/tektoncd/pipeline/pkg/client/injection/client/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/injection/informers/factory/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/injection/informers/pipeline/v1/pipelinerun/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/injection/informers/pipeline/v1/taskrun/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/injection/informers/pipeline/v1alpha1/verificationpolicy/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/injection/informers/pipeline/v1beta1/customrun/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/resolution/injection/client/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/resolution/injection/informers/factory/fake"
	_ "github.com/tektoncd/pipeline/pkg/client/resolution/injection/informers/resolution/v1beta1/resolutionrequest/fake"
	_ "github.com/tektoncd/pipeline/pkg/pipelinerunmetrics/fake"
	"github.com/tektoncd/pipeline/pkg/reconciler/events/cloudevent"
	"github.com/tektoncd/pipeline/pkg/reconciler/pipelinerun"
	"github.com/tektoncd/pipeline/pkg/reconciler/taskrun"
	_ "github.com/tektoncd/pipeline/pkg/taskrunmetrics/fake"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	kubeclient "knative.dev/pkg/client/injection/kube/client/fake"
	_ "knative.dev/pkg/client/injection/kube/informers/core/v1/limitrange/fake"
	_ "knative.dev/pkg/client/injection/kube/informers/core/v1/pod/filtered/fake"
	_ "knative.dev/pkg/client/injection/kube/informers/core/v1/secret/fake"
	filtered "knative.dev/pkg/client/injection/kube/informers/factory/filtered"
	_ "knative.dev/pkg/client/injection/kube/informers/factory/filtered/fake"
	"knative.dev/pkg/configmap/informer"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/injection"
	"knative.dev/pkg/system"
)

const namespace = "default"

func main() {
	images := pipeline.Images{}
	flag.StringVar(&images.EntrypointImage, "entrypoint-image", "", "with Tekton's entrypoint")
	flag.StringVar(&images.WorkingDirInitImage, "workingdirinit-image", "", "with its workingdirinit")
	flag.Parse()
	if err := serve(os.Stdin, images); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(input io.Reader, images pipeline.Images) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctx = filtered.WithSelectors(ctx, tekton.ManagedByLabelKey)
	ctx = cloudevent.WithFakeClient(ctx, &cloudevent.FakeClientBehaviour{SendSuccessfully: true}, 0)
	ctx, informers := injection.Fake.SetupInformers(ctx, &rest.Config{})
	kube, tektons := kubeclient.Get(ctx), pipelineclient.Get(ctx)
	if err := install(ctx, kube); err != nil {
		return err
	}
	options := &pipeline.Options{Images: images}
	configuration := informer.NewInformedWatcher(kube, system.Namespace())
	tasks := taskrun.NewController(options, clock.RealClock{})(ctx, configuration)
	pipelines := pipelinerun.NewController(options, clock.RealClock{})(ctx, configuration)
	if err := configuration.Start(ctx.Done()); err != nil {
		return err
	}
	if err := controller.StartInformers(ctx.Done(), informers...); err != nil {
		return err
	}
	if err := report(ctx, kube, tektons); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- controller.StartAll(ctx, tasks, pipelines) }()
	go func() { ended <- apply(ctx, input, kube, tektons) }()
	return <-ended
}

// install makes what Tekton's release brings, and what each namespace has.
func install(ctx context.Context, kube kubernetes.Interface) error {
	// Nothing injects sidecars here: steps need not wait until the pod is ready.
	settings := map[string]map[string]string{
		config.GetFeatureFlagsConfigName(): {"running-in-environment-with-injected-sidecars": "false"},
		config.GetDefaultsConfigName():     nil,
		config.GetEventsConfigName():       nil,
		config.GetMetricsConfigName():      nil,
		config.GetSpireConfigName():        nil,
		config.GetTracingConfigName():      nil,
	}
	for name, data := range settings {
		made := &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name, Namespace: system.Namespace()}, Data: data}
		if _, err := kube.CoreV1().ConfigMaps(system.Namespace()).Create(ctx, made, meta.CreateOptions{}); err != nil {
			return err
		}
	}
	account := &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "default", Namespace: namespace}}
	_, err := kube.CoreV1().ServiceAccounts(namespace).Create(ctx, account, meta.CreateOptions{})
	return err
}

// report prints what the controllers do from now on.
func report(ctx context.Context, kube kubernetes.Interface, tektons versioned.Interface) error {
	pods, err := kube.CoreV1().Pods(namespace).Watch(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	taskRuns, err := tektons.TektonV1().TaskRuns(namespace).Watch(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	pipelineRuns, err := tektons.TektonV1().PipelineRuns(namespace).Watch(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	var line sync.Mutex
	done := map[types.UID]bool{}
	print := func(uid types.UID, object any) {
		line.Lock()
		defer line.Unlock()
		if done[uid] {
			return
		}
		done[uid] = true
		if err := json.NewEncoder(os.Stdout).Encode(object); err != nil {
			panic(err)
		}
	}
	follow := func(events watch.Interface) {
		for event := range events.ResultChan() {
			switch object := event.Object.(type) {
			case *core.Pod:
				print(types.UID(object.Name), object)
			case *tekton.TaskRun:
				if len(object.OwnerReferences) == 0 && object.IsDone() {
					print(object.UID, object)
				}
			case *tekton.PipelineRun:
				if object.IsDone() {
					print(object.UID, object)
				}
			}
		}
	}
	for _, events := range []watch.Interface{pods, taskRuns, pipelineRuns} {
		go follow(events)
	}
	return nil
}

// apply does what the lines ask for, as an API server that has asked Tekton's webhook.
func apply(ctx context.Context, input io.Reader, kube kubernetes.Interface, tektons versioned.Interface) error {
	lines := bufio.NewReader(input)
	for {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var of meta.TypeMeta
		if err := json.Unmarshal(text, &of); err != nil {
			return err
		}
		runs := tektons.TektonV1()
		switch of.Kind {
		case "Task":
			err = create(ctx, text, &tekton.Task{}, runs.Tasks(namespace).Create)
		case "Pipeline":
			err = create(ctx, text, &tekton.Pipeline{}, runs.Pipelines(namespace).Create)
		case "TaskRun":
			err = create(ctx, text, &tekton.TaskRun{}, runs.TaskRuns(namespace).Create)
		case "PipelineRun":
			err = create(ctx, text, &tekton.PipelineRun{}, runs.PipelineRuns(namespace).Create)
		case "Pod":
			var pod core.Pod
			if err = json.Unmarshal(text, &pod); err == nil {
				_, err = kube.CoreV1().Pods(namespace).UpdateStatus(ctx, &pod, meta.UpdateOptions{})
			}
		default:
			err = fmt.Errorf("%s is not known", of.Kind)
		}
		if err != nil {
			return err
		}
	}
}

type object interface {
	meta.Object
	SetDefaults(context.Context)
}

func create[T object](
	ctx context.Context,
	text []byte,
	made T,
	create func(context.Context, T, meta.CreateOptions) (T, error),
) error {
	if err := json.Unmarshal(text, made); err != nil {
		return err
	}
	if made.GetName() == "" {
		made.SetName(made.GetGenerateName() + "x")
	}
	made.SetNamespace(namespace)
	made.SetUID(uuid.NewUUID())
	made.SetDefaults(ctx)
	_, err := create(ctx, made, meta.CreateOptions{})
	return err
}
