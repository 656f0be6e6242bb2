"""The MLX backend: modules named as in the published weights, and one forward for training, scoring and generation.

Only this folder imports mlx.
"""

from mlxtune import blas

# Must run before mlx is imported for the first time.
blas.prefer_openblas()
