values = context.get("made", {}).get("numbers", [])
result = f"{heading}: {values}, {context['added']['average']:.2f} on average"
print(result)
