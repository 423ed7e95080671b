"""Matrix products in fp32 on a CPU through oneDNN, which uses AVX-512 on every vendor's cores."""
