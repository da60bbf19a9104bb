"""How far explanations in single and half precision are from those in double precision, by network and preset."""
