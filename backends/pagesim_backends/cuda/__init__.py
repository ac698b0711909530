"""The GPU backend: the same steps on real memory, with CuPy and the kernels of this folder."""
