"""Safe files, strict configurations, seeds, ranks and progress: the ground every other room stands on. No science."""
