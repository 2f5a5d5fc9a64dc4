"""Retinal vision-language foundation models in JAX: RET-CLIP, ViLReF and KeepFIT."""
