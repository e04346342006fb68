package config

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/consts"
	"github.com/compose-spec/compose-go/v2/interpolation"
	composeloader "github.com/compose-spec/compose-go/v2/loader"
	composeschema "github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/hashicorp/hcl/v2"
)

// composeKeys returns the top-level keys of compose files, which project files do not have.
func composeKeys() []string {
	return []string{"name", "version", "services", "networks", "volumes", "secrets", "configs", "models"}
}

// readCompose converts compose files, merged by the rules of compose, to one document: a target for each service with
// a build section, and the group "default" of them. All values are constants, so the rest of the package does not
// distinguish them from other project files.
func (l *loader) readCompose(ctx context.Context, files []*document) (*document, hcl.Diagnostics) {
	d := &document{name: files[0].name, kinds: blockKinds()}
	d.root = &block{attrs: hcl.Attributes{}, file: d}
	if isTrue(l.opts.Env["BUILDX_BAKE_FILE_RELATIVE_PATHS"]) {
		d.contextDir = filepath.Dir(d.name)
	}
	env, err := l.composeEnv()
	if err != nil {
		return d, hcl.Diagnostics{problem(nil, "%v", err)}
	}
	recorder := &pathRecorder{paths: map[string]bool{}, env: map[string]bool{}}
	p, err := loadCompose(ctx, l.opts.Dir,
		composeInput{files: files, env: env, isolated: l.remote != nil, recorder: recorder, interpolate: quietly})
	found := recorder.files(l.opts.Dir)
	l.included = append(l.included, found...)
	envFiles := slices.Sorted(maps.Keys(recorder.env))
	if l.remote == nil {
		envFiles = append(envFiles, includedEnvFiles(l.opts, files, found, env)...)
		l.localRead = append(l.localRead, envFiles...)
	}
	if err != nil {
		return d, hcl.Diagnostics{l.composeFault(files, found, envFiles, err)}
	}
	l.warnings = append(l.warnings, unsetVariables(files, env)...)
	c := composeReader{project: p, files: files, doc: d, home: l.opts.Env["HOME"]}
	var diags hcl.Diagnostics
	for _, s := range sortedServices(p) {
		b, more := c.target(s)
		diags = append(diags, more...)
		l.warnings = append(l.warnings, c.warnings...)
		c.warnings = nil
		d.root.blocks = append(d.root.blocks, b)
		d.services = append(d.services, b.label)
	}
	if len(p.Services) > 0 && len(d.services) == 0 {
		d.services = []string{} // the group "default" is empty
		one := problem(nil, "%s: no service has a build section, so there is nothing to build", d.name)
		one.Severity = hcl.DiagWarning
		l.warnings = append(l.warnings, one)
	}
	return d, diags
}

// sortedServices returns the services with a build section, sorted by name.
func sortedServices(p *types.Project) []types.ServiceConfig {
	var all []types.ServiceConfig
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		if s := p.Services[name]; s.Build != nil {
			all = append(all, s)
		}
	}
	return all
}

// composeEnv returns the variables for interpolation: from --var, the environment, and .env unless there are env
// files, in this order of precedence.
func (l *loader) composeEnv() (map[string]string, error) {
	all := map[string]string{}
	if !isTrue(l.opts.Env["BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP"]) {
		maps.Copy(all, l.opts.Env)
	}
	if len(l.opts.EnvFiles) == 0 && l.remote == nil { // a remote file must not read variables of this machine's files
		l.localRead = append(l.localRead, filepath.Join(l.opts.Dir, ".env"))
		if err := l.opts.addEnvFile(all, ".env", false); err != nil {
			return nil, err
		}
	}
	for _, v := range l.opts.Vars {
		if name, value, ok := strings.Cut(v, "="); ok {
			all[name] = value
		}
	}
	return all, nil
}

// composeInput is what the compose parser reads.
type composeInput struct {
	files       []*document // merged by the rules of compose
	env         map[string]string
	isolated    bool          // read no other files, since the files are remote
	recorder    *pathRecorder // gets the paths of other files
	interpolate func(*interpolation.Options) *interpolation.Options
	noEnvFiles  bool           // do not read the env files of containers
	copies      *composeCopies // read instead of the files that others include and extend; nil reads these
}

// loadCompose parses compose files and the files they include and extend. Paths stay as written, relative to dir.
func loadCompose(ctx context.Context, dir string, in composeInput) (_ *types.Project, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the compose parser panicked: %v", r)
		}
	}()
	details := types.ConfigDetails{WorkingDir: dir, Environment: in.env}
	for _, f := range in.files {
		file := types.ConfigFile{Filename: filepath.Join(dir, f.name), Content: f.raw}
		details.ConfigFiles = append(details.ConfigFiles, file)
	}
	name := "bake"
	if v := in.env[consts.ComposeProjectName]; v != "" {
		name = v
	}
	options := func(o *composeloader.Options) {
		o.SetProjectName(name, false)
		o.SkipNormalization, o.SkipValidation, o.ResolvePaths = true, true, false
		o.SkipInclude, o.SkipExtends = in.isolated, in.isolated
		o.SkipResolveEnvironment = in.isolated || in.noEnvFiles
		o.Profiles = []string{"*"}
		if o.Interpolate != nil {
			o.Interpolate = in.interpolate(o.Interpolate)
		}
		o.ResourceLoaders = []composeloader.ResourceLoader{in.recorder}
		if in.copies != nil {
			o.SkipConsistencyCheck = true // the copies have only what builds use
			o.ResourceLoaders = []composeloader.ResourceLoader{in.copies}
		}
	}
	raw, err := composeloader.LoadModelWithContext(ctx, details, options)
	if err != nil {
		return nil, err
	}
	model := buildModel(raw, dir, in.recorder.env)
	if len(model) == 0 {
		return nil, errors.New(noServices)
	}
	if err := composeschema.Validate(model); err != nil {
		return nil, err
	}
	all := composeloader.ToOptions(&details, []func(*composeloader.Options){options})
	return composeloader.ModelToProject(model, all, details)
}

// pathRecorder records the paths of other files in compose files. compose-go offers it each of them first, and it
// accepts none, so that they are loaded as usual.
type pathRecorder struct {
	mu    sync.Mutex
	paths map[string]bool // as written, each relative to the file that names it
	env   map[string]bool // absolute paths of the env files of services
}

// Accept implements composeloader.ResourceLoader.
func (m *pathRecorder) Accept(path string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paths[path] = true
	return false
}

// Load implements composeloader.ResourceLoader. It is never called, since Accept returns false.
func (m *pathRecorder) Load(context.Context, string) (string, error) {
	return "", errors.ErrUnsupported
}

// Dir implements composeloader.ResourceLoader. It is never called, since Accept returns false.
func (m *pathRecorder) Dir(path string) string { return filepath.Dir(path) }

// files returns the existing files that the paths can name. It is unknown which file contains a path, so each path is
// tried relative to dir and to the directory of each file found. The result has every file that was read, and perhaps
// more.
func (m *pathRecorder) files(dir string) []string {
	found := map[string]bool{}
	dirs := []string{dir}
	for i := 0; i < len(dirs); i++ {
		for path := range m.paths {
			at := filepath.Clean(path)
			if !filepath.IsAbs(path) {
				at = filepath.Join(dirs[i], path)
			}
			if info, err := os.Stat(at); err != nil || !info.Mode().IsRegular() {
				continue
			}
			found[at] = true
			if in := filepath.Dir(at); !slices.Contains(dirs, in) {
				dirs = append(dirs, in)
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// buildModel returns the parts of a compose model that are relevant for builds. Paths of env files become absolute,
// since compose-go would resolve them relative to the working directory of the process, and are added to envFiles.
func buildModel(raw map[string]any, dir string, envFiles map[string]bool) map[string]any {
	model := map[string]any{}
	if secrets, ok := raw["secrets"]; ok {
		model["secrets"] = secrets
	}
	services, ok := raw["services"].(map[string]any)
	if !ok {
		return model
	}
	kept := map[string]any{}
	for name, s := range services {
		service := map[string]any{}
		if all, ok := s.(map[string]any); ok {
			for _, key := range []string{"image", "build", "environment", "env_file"} {
				if v, ok := all[key]; ok {
					service[key] = v
				}
			}
		}
		if list, ok := service["env_file"].([]any); ok {
			for _, one := range list {
				if f, ok := one.(map[string]any); ok {
					if p, ok := f["path"].(string); ok {
						f["path"] = Absolute(dir, p)
						envFiles[Absolute(dir, p)] = true
					}
					f["required"] = false // only containers need it
				}
			}
		}
		kept[name] = service
	}
	model["services"] = kept
	return model
}
