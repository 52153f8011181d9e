"""Models as directories: checked, loaded, imported, merged, saved, compared, asked."""
