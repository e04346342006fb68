package main

import "github.com/spf13/cobra"

func newImageCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build, list, pull and push single images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newImageBuildCommand(a),
		newImageListCommand(a),
		newHistoryCommand(a),
		newImageInspectCommand(a),
		newImageTagCommand(a),
		newImageRemoveCommand(a),
		newImagePullCommand(a),
		newImagePushCommand(a),
		newImageLoadCommand(a),
	)
	return cmd
}
