// Package capflow captions pictures by a workflow: a router chooses domains,
// agents read the picture each under a prompt of its own, a summariser writes a
// caption from their evidence, and a filter checks it claim by claim.
//
//	flow, err := capflow.New(capflow.Local(eng, capflow.ModelInfo{Name: "demo"}), capflow.Options{})
//	rec, err := flow.Caption(ctx, capflow.Input{ID: "a", Images: []engine.Image{{Path: "a.png"}}})
//	fmt.Println(rec.Captions.Long, rec.Status)
//
// The modes are single, faithful (the published workflow), verified (ours, the
// default) and exhaustive. A flow is a graph of steps, made by [Plan] from the
// prompt pack (package pack) and printed by Graph.String.
//
// In mode verified the picture is also captioned plainly, whole and in views with
// a narrow border cut away; how these looks, the agents and the model's own
// probabilities decide about every sentence stands at the top of weigh.go.
//
// The picture is encoded and prefilled once: agents, summariser, claims and
// judge are forks of one pinned prefix, because all share the system text and
// put their instruction after the picture. The record proves it: see [Shared].
//
// Package job runs a flow over many inputs and resumes; package endpoint puts a
// server with OpenAI's protocol behind a role; package drawn measures flows on
// pictures whose facts are known.
//
// Goroutines: a caption starts one for each step that is ready, and ends them
// all before it returns.
package capflow
