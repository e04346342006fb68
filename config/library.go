package config

import (
	"errors"
	"math/big"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/hashicorp/go-cty-funcs/cidr"
	"github.com/hashicorp/go-cty-funcs/crypto"
	"github.com/hashicorp/go-cty-funcs/encoding"
	"github.com/hashicorp/go-cty-funcs/uuid"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// library returns the built-in functions of the language.
func library() map[string]function.Function {
	all := map[string]function.Function{}
	for _, part := range []map[string]function.Function{numbers(), strs(), collections(), others(), own()} {
		for name, f := range part {
			all[name] = f
		}
	}
	return all
}

func numbers() map[string]function.Function {
	return map[string]function.Function{
		"absolute": stdlib.AbsoluteFunc, "add": stdlib.AddFunc, "ceil": stdlib.CeilFunc,
		"divide": stdlib.DivideFunc, "floor": stdlib.FloorFunc, "int": stdlib.IntFunc, "log": stdlib.LogFunc,
		"max": stdlib.MaxFunc, "min": stdlib.MinFunc, "modulo": stdlib.ModuloFunc,
		"multiply": stdlib.MultiplyFunc, "negate": stdlib.NegateFunc, "parseint": stdlib.ParseIntFunc,
		"pow": stdlib.PowFunc, "signum": stdlib.SignumFunc, "subtract": stdlib.SubtractFunc,
		"and": stdlib.AndFunc, "or": stdlib.OrFunc, "not": stdlib.NotFunc, "equal": stdlib.EqualFunc,
		"notequal": stdlib.NotEqualFunc, "greaterthan": stdlib.GreaterThanFunc,
		"greaterthanorequalto": stdlib.GreaterThanOrEqualToFunc, "lessthan": stdlib.LessThanFunc,
		"lessthanorequalto": stdlib.LessThanOrEqualToFunc,
	}
}

func strs() map[string]function.Function {
	return map[string]function.Function{
		"byteslen": stdlib.BytesLenFunc, "bytesslice": stdlib.BytesSliceFunc, "chomp": stdlib.ChompFunc,
		"format": stdlib.FormatFunc, "formatlist": stdlib.FormatListFunc, "indent": stdlib.IndentFunc,
		"join": stdlib.JoinFunc, "lower": stdlib.LowerFunc, "regex": stdlib.RegexFunc,
		"regex_replace": stdlib.RegexReplaceFunc, "regexall": stdlib.RegexAllFunc,
		"replace": stdlib.ReplaceFunc, "reverse": stdlib.ReverseFunc, "split": stdlib.SplitFunc,
		"strlen": stdlib.StrlenFunc, "substr": stdlib.SubstrFunc, "title": stdlib.TitleFunc,
		"trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc, "trimspace": stdlib.TrimSpaceFunc,
		"trimsuffix": stdlib.TrimSuffixFunc, "upper": stdlib.UpperFunc,
	}
}

func collections() map[string]function.Function {
	return map[string]function.Function{
		"chunklist": stdlib.ChunklistFunc, "coalesce": stdlib.CoalesceFunc,
		"coalescelist": stdlib.CoalesceListFunc, "compact": stdlib.CompactFunc, "concat": stdlib.ConcatFunc,
		"contains": stdlib.ContainsFunc, "distinct": stdlib.DistinctFunc, "element": stdlib.ElementFunc,
		"flatten": stdlib.FlattenFunc, "hasindex": stdlib.HasIndexFunc, "index": stdlib.IndexFunc,
		"keys": stdlib.KeysFunc, "length": stdlib.LengthFunc, "lookup": stdlib.LookupFunc,
		"merge": stdlib.MergeFunc, "range": stdlib.RangeFunc, "reverselist": stdlib.ReverseListFunc,
		"sethaselement": stdlib.SetHasElementFunc, "setintersection": stdlib.SetIntersectionFunc,
		"setproduct": boundedProduct(), "setsubtract": stdlib.SetSubtractFunc,
		"setsymmetricdifference": stdlib.SetSymmetricDifferenceFunc, "setunion": stdlib.SetUnionFunc,
		"slice": stdlib.SliceFunc, "sort": stdlib.SortFunc, "values": stdlib.ValuesFunc,
		"zipmap": stdlib.ZipmapFunc,
	}
}

func others() map[string]function.Function {
	return map[string]function.Function{
		"base64decode": encoding.Base64DecodeFunc, "base64encode": encoding.Base64EncodeFunc,
		"urlencode": encoding.URLEncodeFunc, "bcrypt": crypto.BcryptFunc, "md5": crypto.Md5Func,
		"rsadecrypt": crypto.RsaDecryptFunc, "sha1": crypto.Sha1Func, "sha256": crypto.Sha256Func,
		"sha512": crypto.Sha512Func, "can": tryfunc.CanFunc, "try": tryfunc.TryFunc,
		"convert": typeexpr.ConvertFunc, "cidrhost": cidr.HostFunc, "cidrnetmask": cidr.NetmaskFunc,
		"cidrsubnet": cidr.SubnetFunc, "cidrsubnets": cidr.SubnetsFunc, "csvdecode": stdlib.CSVDecodeFunc,
		"jsondecode": stdlib.JSONDecodeFunc, "jsonencode": stdlib.JSONEncodeFunc,
		"formatdate": stdlib.FormatDateFunc, "timeadd": stdlib.TimeAddFunc, "uuidv4": uuid.V4Func,
		"uuidv5": uuid.V5Func,
	}
}

func own() map[string]function.Function {
	return map[string]function.Function{
		"basename": onString("path", path.Base), "dirname": onString("path", path.Dir),
		"sanitize": onString("name", sanitize), "indexof": indexOf(), "semvercmp": semverCompare(),
		"homedir": homeDir(), "timestamp": timestamp(), "formattimestamp": formatTimestamp(),
		"unixtimestampparse": parseUnix(),
	}
}

func onString(param string, f func(string) string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: param, Type: cty.String}}, Type: function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.StringVal(f(args[0].AsString())), nil
		},
	})
}

// sanitize replaces the characters that a target name must not have.
func sanitize(s string) string {
	return strings.Map(func(r rune) rune {
		if isNameRune(r) {
			return r
		}
		return '_'
	}, s)
}

func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// indexOf returns the function that finds the index of a value in a list.
func indexOf() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType},
			{Name: "value", Type: cty.DynamicPseudoType}},
		Type: function.StaticReturnType(cty.Number),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if t := args[0].Type(); !t.IsListType() && !t.IsTupleType() {
				return cty.NilVal, errors.New("argument must be a list or tuple")
			}
			for i, v := range args[0].Elements() {
				if same, err := stdlib.Equal(v, args[1]); err == nil && same.IsKnown() && same.True() {
					return i, nil
				}
			}
			return cty.NilVal, errors.New("item not found")
		},
	})
}

// semverCompare returns the function that reports whether a version satisfies a constraint.
func semverCompare() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "version", Type: cty.String}, {Name: "constraint", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			version, err := semver.NewVersion(args[0].AsString())
			if err != nil {
				return cty.NilVal, err
			}
			constraint, err := semver.NewConstraint(args[1].AsString())
			if err != nil {
				return cty.NilVal, err
			}
			return cty.BoolVal(constraint.Check(version)), nil
		},
	})
}

func homeDir() function.Function {
	return function.New(&function.Spec{
		Type: function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) {
			home, err := os.UserHomeDir()
			return cty.StringVal(home), err
		},
	})
}

// timestamp returns the function that returns the current time in UTC.
func timestamp() function.Function {
	return function.New(&function.Spec{
		Type: function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) {
			return cty.StringVal(time.Now().UTC().Format(time.RFC3339)), nil
		},
	})
}

// formatTimestamp returns the function that formats an RFC 3339 time, or seconds since 1970, with the verbs of
// formatdate. The format "X" gives the seconds since 1970.
func formatTimestamp() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "format", Type: cty.String}, {Name: "time", Type: cty.DynamicPseudoType}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			at, err := timeOf(args[1])
			if err != nil {
				return cty.NilVal, function.NewArgError(1, err)
			}
			if args[0].AsString() == "X" {
				return cty.StringVal(strconv.FormatInt(at.Unix(), 10)), nil
			}
			text := args[1]
			if text.Type() == cty.Number {
				text = cty.StringVal(at.Format(time.RFC3339))
			}
			return stdlib.FormatDate(args[0], text)
		},
	})
}

func timeOf(v cty.Value) (time.Time, error) {
	switch v.Type() {
	case cty.String:
		at, err := time.Parse(time.RFC3339, v.AsString())
		if err != nil {
			return at, errors.New("timestamp string must be RFC3339")
		}
		return at, nil
	case cty.Number:
		seconds, accuracy := v.AsBigFloat().Int64()
		if accuracy != big.Exact {
			return time.Time{}, errors.New("unix timestamp must be an integer")
		}
		return time.Unix(seconds, 0).UTC(), nil
	}
	return time.Time{}, errors.New("must be a string timestamp or a unix timestamp number")
}

// parseUnix returns the function that splits seconds since 1970 into the fields of a date.
func parseUnix() function.Function {
	n, s := cty.Number, cty.String
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "unix_timestamp", Type: cty.Number}},
		Type: function.StaticReturnType(cty.Object(map[string]cty.Type{
			"year": n, "year_day": n, "day": n, "month": n, "month_name": s, "weekday": n, "weekday_name": s, "hour": n,
			"minute": n, "second": n, "rfc3339": s, "iso_year": n, "iso_week": n,
		})),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			at, err := timeOf(args[0])
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			year, week := at.ISOWeek()
			num := func(v int) cty.Value { return cty.NumberIntVal(int64(v)) }
			return cty.ObjectVal(map[string]cty.Value{
				"year": num(at.Year()), "year_day": num(at.YearDay()), "day": num(at.Day()),
				"month":      num(int(at.Month())),
				"month_name": cty.StringVal(at.Month().String()), "weekday": num(int(at.Weekday())),
				"weekday_name": cty.StringVal(at.Weekday().String()), "hour": num(at.Hour()),
				"minute": num(at.Minute()),
				"second": num(at.Second()), "rfc3339": cty.StringVal(at.Format(time.RFC3339)),
				"iso_year": num(year), "iso_week": num(week),
			}), nil
		},
	})
}
