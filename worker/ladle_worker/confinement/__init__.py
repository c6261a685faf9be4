"""What a rank may do to the machine: see, write, reach and take. Linux only, as the workers are.

Ranks open files of strangers. Each protection is asked of the kernel when the worker starts (`probe`), and those that
it grants are applied to every attempt (`apply`), before torch is imported and before any file of a job is opened.
"""
