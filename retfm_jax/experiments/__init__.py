"""What verbs and notebooks call: training runs, comparisons, imports and exports."""
